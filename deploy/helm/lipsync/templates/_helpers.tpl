{{- define "lipsync.labels" -}}
app.kubernetes.io/name: lipsync
app.kubernetes.io/instance: {{ .Release.Name }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ .Chart.Name }}-{{ .Chart.Version }}
{{- end }}

{{- define "lipsync.selector" -}}
app.kubernetes.io/name: lipsync
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end }}

{{/* The settings of the gateway and, in mode cpu, of the server: one file for `lipsync gateway` and `lipsync serve`. */}}
{{- define "lipsync.settings" -}}
{{- $gateway := dict "tokens" "/etc/lipsync/secrets/tokens.yaml" "request_log" (dict "file" "stderr" "format" "json") }}
{{- if .Values.tls }}
{{- $gateway = merge $gateway (dict "tls_cert" "/etc/lipsync/tls/tls.crt" "tls_key" "/etc/lipsync/tls/tls.key") }}
{{- end }}
{{- if eq .Values.mode "gpu" }}
{{- $gateway = merge $gateway (dict "upstreams" (list "127.0.0.1:9001") "upstream_metrics" "127.0.0.1:9002" "bind" "0.0.0.0") }}
{{- end }}
{{- $all := dict "gateway" (merge (deepCopy .Values.settings) $gateway) "registry" .Values.registry }}
{{- if eq .Values.mode "cpu" }}
{{- $all = merge $all (dict "bind" "0.0.0.0" "exit_timeout" 20) }}
{{- end }}
{{- toYaml $all }}
{{- end }}

{{- define "lipsync.security" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "lipsync.pod" -}}
automountServiceAccountToken: false
securityContext: {runAsNonRoot: true, runAsUser: 10001, runAsGroup: 10001, fsGroup: 10001, seccompProfile: {type: RuntimeDefault}}
{{- with .Values.images.pullSecrets }}
imagePullSecrets: {{ toJson . }}
{{- end }}
{{- with .Values.nodeSelector }}
nodeSelector: {{ toJson . }}
{{- end }}
{{- with .Values.tolerations }}
tolerations: {{ toJson . }}
{{- end }}
{{- end }}

{{- define "lipsync.check" -}}
{{- if not (has .Values.mode (list "cpu" "gpu")) }}{{ fail (printf "mode is %q; allowed is cpu or gpu" .Values.mode) }}{{ end }}
{{- if not (has .Values.repository.from (list "image" "pvc" "s3")) }}{{ fail (printf "repository.from is %q; allowed is image, pvc or s3" .Values.repository.from) }}{{ end }}
{{- if and (eq .Values.repository.from "s3") (ne .Values.mode "gpu") }}{{ fail "repository.from is s3, which needs mode gpu: `lipsync serve` takes a folder" }}{{ end }}
{{- if and (eq .Values.repository.from "s3") (not .Values.repository.url) }}{{ fail "repository.from is s3, but repository.url is empty" }}{{ end }}
{{- if and (eq .Values.repository.from "pvc") (not .Values.repository.claim) }}{{ fail "repository.from is pvc, but repository.claim is empty" }}{{ end }}
{{- if not (has .Values.autoscaling.by (list "none" "hpa" "keda")) }}{{ fail (printf "autoscaling.by is %q; allowed is none, hpa or keda" .Values.autoscaling.by) }}{{ end }}
{{- end }}
