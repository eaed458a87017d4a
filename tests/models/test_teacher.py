"""Distillation: the loss is the published one, a teacher changes what is learnt, and nothing changes without one."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import torch
from torch.nn import functional

from fromzero.errors import UsageError
from fromzero.models.teacher import SHARE, TEMPERATURE, taught, with_answers
from fromzero.records import Recipe
from fromzero.runs import Run
from fromzero.starting import train
from fromzero.tasks import image
from fromzero.training import resume


def test_the_loss_is_hintons():
    torch.manual_seed(0)
    student, teacher = torch.randn(6, 4, requires_grad=True), torch.randn(6, 4)
    truth = torch.tensor([0, 1, 2, 3, 0, 1])
    found = taught(image.loss_for(Recipe()), mixed=False)(student, with_answers(truth, teacher))
    wanted = 0.0
    for ours, theirs, label in zip(student, teacher, truth, strict=True):
        p, q = (torch.softmax(each / TEMPERATURE, 0) for each in (theirs, ours))
        wanted = wanted + SHARE * TEMPERATURE**2 * (p * (p / q).log()).sum()
        wanted = wanted - (1 - SHARE) * torch.log_softmax(ours, 0)[label]
    assert found.item() == pytest.approx(wanted.item() / 6, rel=1e-5)


def test_a_student_who_answers_as_the_teacher_hears_the_truth_only():
    logits, truth = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    found = taught(image.loss_for(Recipe()), mixed=False)(logits, with_answers(truth, logits))
    assert found.item() == pytest.approx((1 - SHARE) * functional.cross_entropy(logits, truth).item(), rel=1e-5)


def test_without_answers_it_is_the_loss_itself():
    logits, truth = torch.randn(5, 3), torch.tensor([0, 1, 2, 0, 1])
    found = taught(image.loss_for(Recipe()), mixed=False)(logits, truth)
    assert found.item() == functional.cross_entropy(logits, truth).item()


def test_mixed_targets_stay_shares():
    logits, shares = torch.randn(2, 3), torch.tensor([[0.25, 0.75, 0.0], [0.0, 0.5, 0.5]])
    found = taught(image.loss_for(Recipe()), mixed=True)(logits, with_answers(shares, logits))
    assert found.item() == pytest.approx((1 - SHARE) * functional.cross_entropy(logits, shares).item(), rel=1e-5)


WORDS = {"model": "cnn", "epochs": 2, "batch": 14, "device": "cpu", "seed": 5}


def weights(run: Run) -> bytes:
    return (run.last / "model.safetensors").read_bytes()


def test_a_student_comes_closer_to_its_teacher_and_resumes_to_the_same_bits(tiny_data, tiny_run, tmp_path, monkeypatch):
    from fromzero import training
    from fromzero.predicting import open_classifier

    student = train(tiny_data, output=tmp_path / "student", teacher=str(tiny_run.path), **WORDS)
    alone = train(tiny_data, output=tmp_path / "alone", **WORDS)
    assert weights(student) != weights(alone)
    assert student.preprocessing() == tiny_run.preprocessing()
    given = np.random.default_rng(0).integers(0, 255, (64, 24, 24, 3), dtype=np.uint8)
    teacher, taught_one, untaught = (open_classifier(each.path).scores(given) for each in (tiny_run, student, alone))
    assert np.abs(taught_one - teacher).mean() < np.abs(untaught - teacher).mean()

    saved = training._save

    def dies(job):
        saved(job)
        if job.state.step == job.per_epoch:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(training, "_save", dies)
        with pytest.raises(KeyboardInterrupt):
            train(tiny_data, output=tmp_path / "cut", teacher=str(tiny_run.path), **WORDS)
    assert weights(Run(tmp_path / "cut")) != weights(student)
    resume(tmp_path / "cut")
    assert weights(Run(tmp_path / "cut")) == weights(student)


def test_a_teacher_of_other_classes_is_refused(tiny_data, tiny_run, tmp_path):
    other = shutil.copytree(tiny_run.path, tmp_path / "other")
    Run(other).note(classes=["a", "b"])
    with pytest.raises(UsageError) as error:
        train(tiny_data, output=tmp_path / "run", teacher=str(other), **WORDS)
    assert error.value.code == "other_teacher" and not (tmp_path / "run").exists()
