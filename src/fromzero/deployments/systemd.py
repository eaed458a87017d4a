"""A service of a Linux machine: a unit that may do almost nothing but answer, and a script that installs it."""

from __future__ import annotations

from fromzero.deployments import MODEL, REQUIREMENTS, Service

UNUSED = ("image",)
PACKAGED = True
PREFIX = "/opt/fromzero"


def files(service: Service) -> dict[str, str]:
    return {f"{service.name}.service": _unit(service), "install.sh": _install(service)}


def after(service: Service) -> list[str]:
    return ["sudo sh install.sh", f"journalctl --unit {service.name} --follow"]


def _unit(service: Service) -> str:
    home = f"{PREFIX}/{service.name}"
    workers = f" --workers {service.replicas}" if service.replicas > 1 else ""
    # The first 1024 ports are root's, unless a service is given this right.
    capabilities = "CAP_NET_BIND_SERVICE" if service.port < 1024 else ""
    return f"""[Unit]
Description=fromzero: {service.name}
Wants=network-online.target
After=network-online.target

[Service]
Type=exec
ExecStart={home}/venv/bin/fromzero serve {home}/{MODEL} --host 127.0.0.1 --port {service.port}{workers}
Environment=PYTHONUNBUFFERED=1
# FROMZERO_API_KEYS=key,key
EnvironmentFile=-/etc/fromzero/{service.name}.env
Restart=always
RestartSec=1
# Requests in flight are answered before it ends.
TimeoutStopSec=30
LimitNOFILE=65536

# A user that exists while the service runs, who sees the system read-only and reaches nothing but its port.
DynamicUser=yes
ProtectSystem=strict
ProtectHome=yes
PrivateTmp=yes
{_devices(service)}
ProtectClock=yes
ProtectControlGroups=yes
ProtectHostname=yes
ProtectKernelLogs=yes
ProtectKernelModules=yes
ProtectKernelTunables=yes
ProtectProc=invisible
LockPersonality=yes
NoNewPrivileges=yes
RestrictAddressFamilies=AF_INET AF_INET6 AF_UNIX
RestrictNamespaces=yes
RestrictRealtime=yes
RestrictSUIDSGID=yes
RemoveIPC=yes
SystemCallArchitectures=native
SystemCallFilter=@system-service
SystemCallFilter=~@privileged
SystemCallErrorNumber=EPERM
CapabilityBoundingSet={capabilities}
AmbientCapabilities={capabilities}
UMask=0077

[Install]
WantedBy=multi-user.target
"""


def _devices(service: Service) -> str:
    if not service.gpu:
        return "PrivateDevices=yes"
    cards = ("char-nvidia", "char-nvidia-frontend", "char-nvidia-uvm", "char-nvidia-caps")
    return "\n".join(["DevicePolicy=closed", *(f"DeviceAllow={each} rw" for each in cards)])


def _install(service: Service) -> str:
    cuda = ""
    if service.gpu:
        cuda = f"""
"$home/venv/bin/pip" uninstall --quiet --yes onnxruntime
"$home/venv/bin/pip" install --quiet "onnxruntime-gpu[cuda,cudnn]~={service.onnxruntime}.0\""""
    return f"""#!/bin/sh
# Installs or updates the service; run it as root. PYTHON names another Python than the system's own ({service.python}
# is what {REQUIREMENTS} was resolved for).
set -eu
cd "$(dirname "$0")"
home={PREFIX}/{service.name}
mkdir -p "$home"
"${{PYTHON:-python3}}" -m venv "$home/venv"
"$home/venv/bin/pip" install --quiet --requirement {REQUIREMENTS}{cuda}
# The new model is complete before it takes the place of the old one.
rm -rf "$home/{MODEL}.new"
cp -r {MODEL} "$home/{MODEL}.new"
rm -rf "$home/{MODEL}"
mv "$home/{MODEL}.new" "$home/{MODEL}"
chmod -R a+rX "$home"
install -m 644 {service.name}.service /etc/systemd/system/{service.name}.service
systemctl daemon-reload
systemctl enable {service.name}.service
systemctl restart {service.name}.service
"""
