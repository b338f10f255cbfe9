{{- define "verdigris.fullname" -}}
{{- if contains .Chart.Name .Release.Name }}{{ .Release.Name | trunc 40 | trimSuffix "-" }}{{ else }}{{ printf "%s-%s" .Release.Name .Chart.Name | trunc 40 | trimSuffix "-" }}{{ end }}
{{- end }}

{{/* Labels of all objects; called with (dict "root" $ "part" "indexer"). */}}
{{- define "verdigris.labels" -}}
{{ include "verdigris.selector" . }}
app.kubernetes.io/version: {{ .root.Chart.AppVersion | quote }}
app.kubernetes.io/managed-by: {{ .root.Release.Service }}
helm.sh/chart: {{ printf "%s-%s" .root.Chart.Name .root.Chart.Version }}
{{- end }}

{{- define "verdigris.selector" -}}
app.kubernetes.io/name: verdigris
app.kubernetes.io/instance: {{ .root.Release.Name }}
app.kubernetes.io/component: {{ .part }}
{{- end }}

{{- define "verdigris.image" -}}
{{- with .Values.image -}}
{{ .repository }}{{ if .digest }}@{{ .digest }}{{ else }}:{{ .tag | default $.Chart.AppVersion }}{{ end }}
{{- end -}}
{{- end }}

{{- define "verdigris.storeUrl" -}}
{{- if .Values.store.url }}{{ .Values.store.url }}{{ else if .Values.s3Server.enabled }}s3://{{ .Values.s3Server.bucket }}/{{ .Release.Name }}{{ else }}{{ fail "store.url is needed: s3://bucket/prefix (or s3Server.enabled for a server inside the cluster)" }}{{ end }}
{{- end }}

{{- define "verdigris.storeEndpoint" -}}
{{- if .Values.store.endpoint }}{{ .Values.store.endpoint }}{{ else if .Values.s3Server.enabled }}http://{{ include "verdigris.fullname" . }}-s3:7070{{ end }}
{{- end }}

{{- define "verdigris.storePathStyle" -}}
{{- if or .Values.store.pathStyle .Values.s3Server.enabled }}true{{ end }}
{{- end }}

{{- define "verdigris.storeRegion" -}}
{{- if .Values.store.region }}{{ .Values.store.region }}{{ else if .Values.s3Server.enabled }}us-east-1{{ end }}
{{- end }}

{{- define "verdigris.busUrl" -}}
{{- if .Values.bus.url }}{{ .Values.bus.url }}{{ else if .Values.nats.enabled }}nats://{{ include "verdigris.fullname" . }}-nats:4222{{ else }}{{ fail "bus.url is needed: nats://host:port (or nats.enabled for a broker inside the cluster)" }}{{ end }}
{{- end }}

{{/* What every role reads; the bus is added where events are read. */}}
{{- define "verdigris.environment" -}}
- {name: VERDIGRIS_STORE_URL, value: {{ include "verdigris.storeUrl" . | quote }}}
{{- with include "verdigris.storeRegion" . }}
- {name: VERDIGRIS_STORE_REGION, value: {{ . | quote }}}
{{- end }}
{{- with include "verdigris.storeEndpoint" . }}
- {name: VERDIGRIS_STORE_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- with include "verdigris.storePathStyle" . }}
- {name: VERDIGRIS_STORE_PATH_STYLE, value: "true"}
{{- end }}
{{- with .Values.store.encryption }}
- {name: VERDIGRIS_STORE_ENCRYPTION, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.kmsKey }}
- {name: VERDIGRIS_STORE_KMS_KEY, value: {{ . | quote }}}
{{- end }}
{{- with .Values.store.credentialsSecret }}
- name: AWS_ACCESS_KEY_ID
  valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_ACCESS_KEY_ID}}
- name: AWS_SECRET_ACCESS_KEY
  valueFrom: {secretKeyRef: {name: {{ . }}, key: AWS_SECRET_ACCESS_KEY}}
{{- end }}
{{ include "verdigris.processEnvironment" . }}
{{- end }}

{{/* What is no matter of the store. */}}
{{- define "verdigris.processEnvironment" -}}
- {name: VERDIGRIS_GRPC_ADDRESS, value: "0.0.0.0:7700"}
- {name: VERDIGRIS_HTTP_ADDRESS, value: "0.0.0.0:7701"}
- {name: VERDIGRIS_ADMIN_ADDRESS, value: "0.0.0.0:7702"}
{{- if .Values.authentication.tokenSecret }}
- {name: VERDIGRIS_GRPC_TOKEN_FILE, value: /etc/verdigris/tokens/tokens}
{{- else if .Values.authentication.insecure }}
- {name: VERDIGRIS_GRPC_INSECURE, value: "true"}
{{- else }}
{{ fail "authentication.tokenSecret is needed: a Secret with the key tokens (or authentication.insecure to serve without tokens)" }}
{{- end }}
{{- if .Values.tls.secret }}
- {name: VERDIGRIS_GRPC_TLS_CERTIFICATE, value: /etc/verdigris/tls/tls.crt}
- {name: VERDIGRIS_GRPC_TLS_KEY, value: /etc/verdigris/tls/tls.key}
{{- end }}
{{- if and .Values.tls.clientCaSecret (not .Values.tls.secret) }}
{{ fail "tls.clientCaSecret is of no use without tls.secret" }}
{{- end }}
{{- if .Values.tls.clientCaSecret }}
- {name: VERDIGRIS_GRPC_TLS_CLIENT_CA, value: /etc/verdigris/client-ca/ca.crt}
{{- end }}
- {name: VERDIGRIS_LOG_FORMAT, value: json}
- {name: VERDIGRIS_LOG_FILTER, value: {{ .Values.log.filter | quote }}}
{{- with .Values.trace.endpoint }}
- {name: VERDIGRIS_TRACE_ENDPOINT, value: {{ . | quote }}}
{{- end }}
{{- end }}

{{- define "verdigris.busEnvironment" -}}
- {name: VERDIGRIS_BUS_URL, value: {{ include "verdigris.busUrl" . | quote }}}
{{- with .Values.bus.stream }}
- {name: VERDIGRIS_BUS_STREAM, value: {{ . | quote }}}
{{- end }}
{{- if .Values.bus.credentialsSecret }}
- {name: VERDIGRIS_BUS_CREDENTIALS_FILE, value: /etc/verdigris/bus/nats.creds}
{{- end }}
{{- if .Values.bus.caSecret }}
- {name: VERDIGRIS_BUS_CA_FILE, value: /etc/verdigris/bus-ca/ca.crt}
{{- end }}
{{- end }}

{{/* Secrets as files: (dict "root" $ "bus" true). Empty where there are none. */}}
{{- define "verdigris.secretMounts" -}}
{{- with .root.Values.authentication.tokenSecret }}
- {name: tokens, mountPath: /etc/verdigris/tokens, readOnly: true}
{{- end }}
{{- with .root.Values.tls.secret }}
- {name: tls, mountPath: /etc/verdigris/tls, readOnly: true}
{{- end }}
{{- with .root.Values.tls.clientCaSecret }}
- {name: client-ca, mountPath: /etc/verdigris/client-ca, readOnly: true}
{{- end }}
{{- if .bus }}
{{- with .root.Values.bus.credentialsSecret }}
- {name: bus, mountPath: /etc/verdigris/bus, readOnly: true}
{{- end }}
{{- with .root.Values.bus.caSecret }}
- {name: bus-ca, mountPath: /etc/verdigris/bus-ca, readOnly: true}
{{- end }}
{{- end }}
{{- end }}

{{- define "verdigris.secretVolumes" -}}
{{- with .root.Values.authentication.tokenSecret }}
- {name: tokens, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .root.Values.tls.secret }}
- {name: tls, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .root.Values.tls.clientCaSecret }}
- {name: client-ca, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- if .bus }}
{{- with .root.Values.bus.credentialsSecret }}
- {name: bus, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- with .root.Values.bus.caSecret }}
- {name: bus-ca, secret: {secretName: {{ . }}, defaultMode: 0440}}
{{- end }}
{{- end }}
{{- end }}

{{- define "verdigris.podSecurity" -}}
runAsNonRoot: true
runAsUser: 65532
runAsGroup: 65532
fsGroup: 65532
fsGroupChangePolicy: OnRootMismatch
seccompProfile: {type: RuntimeDefault}
{{- end }}

{{- define "verdigris.containerSecurity" -}}
allowPrivilegeEscalation: false
readOnlyRootFilesystem: true
capabilities: {drop: [ALL]}
{{- end }}

{{- define "verdigris.probes" -}}
startupProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 2
  failureThreshold: 60
livenessProbe:
  httpGet: {path: /healthz, port: http}
  periodSeconds: 10
  failureThreshold: 6
readinessProbe:
  httpGet: {path: /readyz, port: http}
  periodSeconds: 2
  failureThreshold: 3
{{- end }}

{{- define "verdigris.ports" -}}
- {name: grpc, containerPort: 7700}
- {name: http, containerPort: 7701}
- {name: admin, containerPort: 7702}
{{- end }}

{{- define "verdigris.scheduling" -}}
{{- with .nodeSelector }}
nodeSelector: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .tolerations }}
tolerations: {{- toYaml . | nindent 2 }}
{{- end }}
{{- with .affinity }}
affinity: {{- toYaml . | nindent 2 }}
{{- end }}
{{- end }}
