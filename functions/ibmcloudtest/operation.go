package ibmcloudtest

import (
	"net/http"
	"net/url"
	"strings"
)

// The operations that a [Fault] and a [Request] name. OpAny matches each of them.
const (
	OpIAMToken         = "iam.token"
	OpIAMKeys          = "iam.keys"
	OpAPIKeysList      = "apikeys.list"
	OpAPIKeysCreate    = "apikeys.create"
	OpAPIKeysGet       = "apikeys.get"
	OpAPIKeysDetails   = "apikeys.details" // by value
	OpAPIKeysUpdate    = "apikeys.update"
	OpAPIKeysDelete    = "apikeys.delete"
	OpGroups           = "groups"
	OpSecretsList      = "secrets.list"
	OpSecretsCreate    = "secrets.create"
	OpSecretsGet       = "secrets.get" // by name too
	OpSecretsDelete    = "secrets.delete"
	OpSecretsMetadata  = "secrets.metadata"
	OpSecretsPatch     = "secrets.patch"
	OpVersionsCreate   = "versions.create"
	OpVersionsList     = "versions.list"
	OpVersionsGet      = "versions.get"
	OpVersionsMetadata = "versions.metadata"
	OpVersionsPatch    = "versions.patch"
	OpLocks            = "locks"
	OpTargetsList      = "targets.list"
	OpSettingsGet      = "settings.get"
	OpTenantsList      = "tenants.list"
	OpAny              = "*"
)

var operationNames = []string{
	OpIAMToken, OpIAMKeys, OpAPIKeysList, OpAPIKeysCreate, OpAPIKeysGet, OpAPIKeysDetails, OpAPIKeysUpdate, OpAPIKeysDelete, OpGroups, OpSecretsList, OpSecretsCreate, OpSecretsGet, OpSecretsDelete,
	OpSecretsMetadata, OpSecretsPatch, OpVersionsCreate, OpVersionsList, OpVersionsGet, OpVersionsMetadata,
	OpVersionsPatch, OpLocks, OpTargetsList, OpSettingsGet, OpTenantsList, OpAny,
}

// An operation is one method on one path of one of the services.
type operation struct {
	name    string // one of operationNames
	service service
	method  string
	path    []string // segments; "{name}" stands for any one segment
	success int      // status of a good answer

	// serve does the work and returns the body of a good answer, nil for none, or an *apiError.
	// Those of Secrets Manager and of the API keys run with c.mu held.
	serve func(c *Cloud, in *call) (any, error)
}

// A service decides who may call it and what its errors look like.
type service int

const (
	serviceIAM service = iota
	serviceAPIKeys
	serviceSecretsManager
	serviceLogsRouting
)

var operations = indexOperations(iamOperations, apiKeyOperations, groupOperations, secretOperations, versionOperations,
	lockOperations, logsRoutingOperations)

// indexOperations sorts operations by their number of path segments.
func indexOperations(lists ...[]operation) map[int][]*operation {
	index := map[int][]*operation{}
	for _, list := range lists {
		for _, op := range list {
			index[len(op.path)] = append(index[len(op.path)], &op)
		}
	}
	return index
}

// op declares an operation, with its path as text.
func op(name string, s service, method, path string, success int, serve func(*Cloud, *call) (any, error)) operation {
	return operation{name, s, method, strings.Split(path[1:], "/"), success, serve}
}

// findOperation returns the operation for the request and its path parameters. Without one it
// returns the methods that the path allows, none for an unknown path.
func findOperation(r *http.Request) (found *operation, params []string, allow []string) {
	segments := strings.Split(strings.TrimPrefix(r.URL.EscapedPath(), "/"), "/")
	for _, candidate := range operations[len(segments)] {
		values, ok := matchPath(candidate.path, segments)
		switch {
		case !ok:
		case candidate.method == r.Method:
			return candidate, values, nil
		default:
			allow = append(allow, candidate.method)
		}
	}
	return nil, nil, allow
}

// matchPath returns the unescaped segments that stand where the pattern has "{name}".
func matchPath(pattern, segments []string) (params []string, ok bool) {
	for i, want := range pattern {
		if want[0] != '{' && want != segments[i] {
			return nil, false
		}
	}
	for i, want := range pattern {
		if want[0] != '{' {
			continue
		}
		value, err := url.PathUnescape(segments[i])
		if err != nil || value == "" {
			return nil, false
		}
		params = append(params, value)
	}
	return params, true
}
