{{- define "pollcast.fullname" -}}
{{- $name := default .Chart.Name .Values.nameOverride -}}
{{- $full := ternary .Release.Name (printf "%s-%s" .Release.Name $name) (contains $name .Release.Name) -}}
{{- default $full .Values.fullnameOverride | trunc 40 | trimSuffix "-" -}}
{{- end -}}

{{- define "pollcast.selector" -}}
app.kubernetes.io/name: {{ default .Chart.Name .Values.nameOverride }}
app.kubernetes.io/instance: {{ .Release.Name }}
{{- end -}}

{{- define "pollcast.labels" -}}
{{ include "pollcast.selector" . }}
app.kubernetes.io/version: {{ .Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .Chart.Name .Chart.Version | replace "+" "_" }}
{{- end -}}

{{- define "pollcast.serviceAccount" -}}
{{- default (ternary (include "pollcast.fullname" .) "default" .Values.serviceAccount.create) .Values.serviceAccount.name -}}
{{- end -}}

{{/* The endpoints of etcd, separated by commas. */}}
{{- define "pollcast.etcd" -}}
{{- if .Values.etcd.enabled -}}
{{- $full := include "pollcast.fullname" . -}}
{{- $hosts := list -}}
{{- range until (int .Values.etcd.replicas) -}}
{{- $hosts = append $hosts (printf "%s-etcd-%d.%s-etcd.%s.svc:2379" $full . $full $.Release.Namespace) -}}
{{- end -}}
{{- join "," $hosts -}}
{{- else -}}
{{- if not .Values.etcd.endpoints }}{{ fail "etcd.enabled is false: set etcd.endpoints" }}{{ end -}}
{{- join "," .Values.etcd.endpoints -}}
{{- end -}}
{{- end -}}
