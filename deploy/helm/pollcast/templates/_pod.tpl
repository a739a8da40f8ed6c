{{/* The security contexts fulfil the Pod Security Standard "restricted". */}}
{{- define "pollcast.podSecurity" -}}
runAsNonRoot: true
runAsUser: 10001
runAsGroup: 10001
fsGroup: 10001
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end -}}

{{- define "pollcast.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end -}}

{{/* Variables from maps of settings: a later map wins. Takes a list of maps. */}}
{{- define "pollcast.settings" -}}
{{- $all := dict -}}
{{- range . }}{{- $all = merge (deepCopy .) $all }}{{- end }}
{{- range $name, $value := $all }}
- name: POLLCAST_{{ $name }}
  value: {{ if kindIs "float64" $value }}{{ $value | toJson | quote }}{{ else }}{{ $value | toString | quote }}{{ end }}
{{- end }}
{{- end -}}

{{/* Variables of every service. */}}
{{- define "pollcast.env" -}}
- name: POLLCAST_NODE
  valueFrom: {fieldRef: {fieldPath: metadata.name}}
{{- if .Values.tls.existingSecret }}
- name: POLLCAST_ADVERTISE
  value: $(POLLCAST_NODE).{{ include "pollcast.fullname" . }}-nodes.{{ .Release.Namespace }}.svc
- name: POLLCAST_TLS_CA
  value: /run/secrets/pollcast/tls/ca.crt
- name: POLLCAST_TLS_CERT
  value: /run/secrets/pollcast/tls/tls.crt
- name: POLLCAST_TLS_KEY
  value: /run/secrets/pollcast/tls/tls.key
{{- else }}
- name: POLLCAST_ADVERTISE
  valueFrom: {fieldRef: {fieldPath: status.podIP}}
{{- end }}
- name: POLLCAST_HTTP
  value: {{ printf "%s:4000" .Values.listenHost | quote }}
- name: POLLCAST_GRPC
  value: {{ printf "%s:4001" .Values.listenHost | quote }}
- name: POLLCAST_CATALOG
  value: /etc/pollcast/catalog.toml
- name: POLLCAST_ETCD
  value: {{ include "pollcast.etcd" . }}
{{- if not .Values.etcd.enabled }}
{{- if .Values.etcd.tls.existingSecret }}
- name: POLLCAST_ETCD_CA
  value: /run/secrets/pollcast/etcd-tls/ca.crt
{{- if .Values.etcd.tls.clientCertificate }}
- name: POLLCAST_ETCD_CERT
  value: /run/secrets/pollcast/etcd-tls/tls.crt
- name: POLLCAST_ETCD_KEY
  value: /run/secrets/pollcast/etcd-tls/tls.key
{{- end }}
{{- end }}
{{- if .Values.etcd.auth.existingSecret }}
- name: POLLCAST_ETCD_USER_FILE
  value: /run/secrets/pollcast/etcd-auth/username
- name: POLLCAST_ETCD_PASSWORD_FILE
  value: /run/secrets/pollcast/etcd-auth/password
{{- end }}
{{- end }}
{{- end -}}

{{/* Variables of a gateway that say who may connect. */}}
{{- define "pollcast.authEnv" -}}
{{- with .Values.auth }}
{{- if eq .mode "none" }}
- name: POLLCAST_AUTH
  value: none
{{- else if eq .mode "secret" }}
- name: POLLCAST_AUTH_SECRET_FILE
  value: /run/secrets/pollcast/auth/{{ .key }}
{{- else if eq .mode "jwks" }}
- name: POLLCAST_AUTH_JWKS
  value: /run/secrets/pollcast/auth/{{ .key }}
{{- else }}
- name: POLLCAST_AUTH_JWKS_URL
  value: {{ required "auth.mode is jwksUrl: set auth.jwksUrl" .jwksUrl }}
{{- end }}
{{- with .audience }}
- name: POLLCAST_AUTH_AUDIENCE
  value: {{ . | quote }}
{{- end }}
{{- with .issuer }}
- name: POLLCAST_AUTH_ISSUER
  value: {{ . | quote }}
{{- end }}
{{- with .rolesClaim }}
- name: POLLCAST_AUTH_ROLES_CLAIM
  value: {{ . | quote }}
{{- end }}
{{- end }}
{{- end -}}

{{/* The folder of the URL of another source, by the variable that the catalogue names. */}}
{{- define "pollcast.sourceFolder" -}}
source-{{ lower . | replace "_" "-" }}
{{- end -}}

{{/* Variables of a poller that say where the databases are. */}}
{{- define "pollcast.databaseEnv" -}}
{{- $of := .Values.database -}}
{{- if or $of.url $of.existingSecret }}
- name: POLLCAST_DATABASE_URL_FILE
  value: /run/secrets/pollcast/database/{{ ternary "database-url" $of.urlKey (ne $of.url "") }}
{{- with $of.listenUrlKey }}
- name: POLLCAST_LISTEN_URL_FILE
  value: /run/secrets/pollcast/database/{{ . }}
{{- end }}
{{- end }}
{{- range $of.sources }}
- name: {{ .variable }}_FILE
  value: /run/secrets/pollcast/{{ include "pollcast.sourceFolder" .variable }}/{{ .key }}
{{- end }}
{{- end -}}

{{/* The volumes of a role, by the name of their folder; takes a dict with `root` and `role`. Volumes are mounted whole,
because files that are mounted one by one (subPath) do not change with their ConfigMap or Secret. */}}
{{- define "pollcast.sources" -}}
{{- $v := .root.Values -}}
{{- $full := include "pollcast.fullname" .root -}}
{{- if $v.tls.existingSecret }}
tls: {{ $v.tls.existingSecret }}
{{- end }}
{{- if and (not $v.etcd.enabled) $v.etcd.tls.existingSecret }}
etcd-tls: {{ $v.etcd.tls.existingSecret }}
{{- end }}
{{- if and (not $v.etcd.enabled) $v.etcd.auth.existingSecret }}
etcd-auth: {{ $v.etcd.auth.existingSecret }}
{{- end }}
{{- if and (eq .role "gateway") (has $v.auth.mode (list "secret" "jwks")) }}
auth: {{ required "auth.mode needs auth.existingSecret" $v.auth.existingSecret }}
{{- end }}
{{- if eq .role "poller" }}
{{- if $v.database.url }}
database: {{ $full }}-database
{{- else if or $v.database.existingSecret (not $v.database.sources) }}
database: {{ required "set database.existingSecret or database.url" $v.database.existingSecret }}
{{- end }}
{{- range $v.database.sources }}
{{ include "pollcast.sourceFolder" .variable }}: {{ .existingSecret }}
{{- end }}
{{- end }}
{{- end -}}
