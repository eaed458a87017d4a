"""A Deployment and its Service: probes on /healthz and /readyz, resources, and a pod that may write nowhere."""

from __future__ import annotations

import json

from fromzero.deployments import MODEL, Service

UNUSED = ()
PACKAGED = False  # the image carries it all


def files(service: Service) -> dict[str, str]:
    return {"kubernetes.yaml": _manifest(service)}


def after(service: Service) -> list[str]:
    return [
        f"docker push {service.tag}",  # as `--to docker` built it
        "kubectl apply --filename kubernetes.yaml",
        f"kubectl rollout status deployment/{service.name}",
        f"kubectl port-forward service/{service.name} {service.port}:80",
    ]


def _manifest(service: Service) -> str:
    name, port, memory = service.name, service.port, service.memory_mib
    card = "\n              nvidia.com/gpu: 1" if service.gpu else ""
    return f"""apiVersion: v1
kind: Service
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: {name}
spec:
  selector:
    app.kubernetes.io/name: {name}
  ports:
    - name: http
      port: 80
      targetPort: http
---
apiVersion: apps/v1
kind: Deployment
metadata:
  name: {name}
  labels:
    app.kubernetes.io/name: {name}
spec:
  replicas: {service.replicas}
  selector:
    matchLabels:
      app.kubernetes.io/name: {name}
  strategy:
    rollingUpdate:
      maxUnavailable: 0
      maxSurge: 1
  template:
    metadata:
      labels:
        app.kubernetes.io/name: {name}
      annotations:
        prometheus.io/scrape: "true"
        prometheus.io/port: "{port}"
        prometheus.io/path: /metrics
    spec:
      automountServiceAccountToken: false
      terminationGracePeriodSeconds: 30
      securityContext:
        runAsNonRoot: true
        runAsUser: 10001
        seccompProfile:
          type: RuntimeDefault
      containers:
        - name: serve
          image: {json.dumps(service.tag)}
          args: ["fromzero", "serve", "/app/{MODEL}", "--host", "0.0.0.0", "--port", "{port}"]
          ports:
            - name: http
              containerPort: {port}
          env:
            - name: FROMZERO_API_KEYS
              valueFrom:
                secretKeyRef:
                  name: {name}
                  key: api-keys
                  optional: true  # without the secret everyone may ask
          # Loading is given two minutes; then a pod that does not answer is taken out, and restarted later.
          startupProbe:
            httpGet:
              path: /readyz
              port: http
            periodSeconds: 1
            failureThreshold: 120
          readinessProbe:
            httpGet:
              path: /readyz
              port: http
            periodSeconds: 5
            timeoutSeconds: 2
          livenessProbe:
            httpGet:
              path: /healthz
              port: http
            periodSeconds: 10
            timeoutSeconds: 5
            failureThreshold: 6
          lifecycle:
            preStop:  # until every node knows that this pod takes no more requests
              exec:
                command: ["sleep", "5"]
          resources:
            requests:
              cpu: "1"
              memory: {memory}Mi
            limits:
              memory: {2 * memory}Mi{card}
          securityContext:
            allowPrivilegeEscalation: false
            readOnlyRootFilesystem: true
            capabilities:
              drop: ["ALL"]
          volumeMounts:
            - name: scratch
              mountPath: /tmp
      volumes:
        - name: scratch
          emptyDir:
            medium: Memory
            sizeLimit: 64Mi
"""
