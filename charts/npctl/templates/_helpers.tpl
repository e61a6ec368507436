{{/*
The names are fixed: two installations in one cluster would compile and publish against each other, and by fixed names of cluster-wide
objects helm itself refuses the second one.
*/}}

{{/* Labels that select a component's pods: (list CONTEXT "operator"|"agent"). They never change. */}}
{{- define "npctl.selector" -}}
app.kubernetes.io/name: npctl
app.kubernetes.io/component: {{ last . }}
{{- end }}

{{/* Labels of everything in the chart: (list CONTEXT COMPONENT). */}}
{{- define "npctl.labels" -}}
{{- $context := first . -}}
{{ include "npctl.selector" . }}
app.kubernetes.io/instance: {{ $context.Release.Name | quote }}
app.kubernetes.io/version: {{ $context.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ $context.Release.Service | quote }}
helm.sh/chart: {{ printf "%s-%s" $context.Chart.Name $context.Chart.Version | replace "+" "_" }}
{{- end }}

{{/* The image, by tag or by digest. */}}
{{- define "npctl.image" -}}
{{- $tag := .Values.image.tag | default .Chart.AppVersion -}}
{{- .Values.image.repository }}{{ ternary "@" ":" (hasPrefix "sha256:" $tag) }}{{ $tag -}}
{{- end }}

{{/* What only pods have: labels of people, and annotations, those for Prometheus among them: (list CONTEXT COMPONENT VALUES). */}}
{{- define "npctl.podMetadata" -}}
{{- $context := index . 0 -}}
{{- $values := index . 2 -}}
labels:
  {{- include "npctl.labels" (list $context (index . 1)) | nindent 2 }}
  {{- with $values.podLabels }}
  {{- toYaml . | nindent 2 }}
  {{- end }}
{{- $annotations := dict -}}
{{- if $context.Values.metrics.scrapeAnnotations -}}
{{- $annotations = dict "prometheus.io/scrape" "true" "prometheus.io/port" (toString (int $values.port)) "prometheus.io/path" "/metrics" -}}
{{- end -}}
{{- with mergeOverwrite $annotations $values.podAnnotations }}
annotations:
  {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}

{{/* Who and where the pod is, and where the API server is if not at its Service. */}}
{{- define "npctl.environment" -}}
- name: POD_NAMESPACE
  valueFrom: {fieldRef: {fieldPath: metadata.namespace}}
- name: POD_NAME
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- with .Values.apiServer.host }}
- name: KUBERNETES_SERVICE_HOST
  value: {{ . | quote }}
- name: KUBERNETES_SERVICE_PORT
  value: {{ int $.Values.apiServer.port | quote }}
{{- end }}
{{- end }}

{{/* Health means progress: a long compilation or a slow kernel is no reason to be killed, standing still is. */}}
{{- define "npctl.probes" -}}
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  timeoutSeconds: 5
  failureThreshold: 3
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 5
  timeoutSeconds: 5
{{- end }}

{{/* Subjects of a binding: people and groups need the group of their API, service accounts a namespace. */}}
{{- define "npctl.subjects" -}}
{{- range . }}
- kind: {{ .kind }}
  name: {{ .name | quote }}
  {{- if eq .kind "ServiceAccount" }}
  namespace: {{ .namespace | quote }}
  {{- else }}
  apiGroup: rbac.authorization.k8s.io
  {{- end }}
{{- end }}
{{- end }}
