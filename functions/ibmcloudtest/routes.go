package ibmcloudtest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Names of operations, which a [Fault] and a [Request] have. The table of routes has more. OpAny matches each of them.
const (
	OpIAMToken         = "iam.token"
	OpIAMKeys          = "iam.keys"
	OpAPIKeysDetails   = "apikeys.details" // by value
	OpServiceIDs       = "serviceids"
	OpGroups           = "groups"
	OpSecretsList      = "secrets.list"
	OpSecretsGet       = "secrets.get" // by name too
	OpSecretsMetadata  = "secrets.metadata"
	OpVersionsCreate   = "versions.create"
	OpVersionsGet      = "versions.get"
	OpVersionsMetadata = "versions.metadata"
	OpLocks            = "locks"
	OpTargetsList      = "targets.list"
	OpNotServed        = "not_served" // what IBM has and this cloud answers 501
	OpAny              = "*"
)

// A service decides who may call it and what its errors look like.
type service int

const (
	serviceControl service = iota // the sandbox's own interface
	serviceIAM
	serviceAPIKeys // and service ids
	serviceAccess  // access groups, policies and resources
	serviceSecretsManager
	serviceLogsRouting
)

// A handler does the work of an operation and returns the body of a good answer, nil for none, or an *apiError. Those of API
// keys, access groups and Secrets Manager run with c.mu held.
type handler func(c *Cloud, in *call) (any, error)

// shows makes a handler of what only shows something, and acts of what only does something.
func shows(what func(*Cloud, *call) any) handler {
	return func(c *Cloud, in *call) (any, error) { return what(c, in), nil }
}

func acts(do func(*Cloud)) handler {
	return func(c *Cloud, _ *call) (any, error) { do(c); return nil, nil }
}

// A route makes an operation of a method and a path. In the path "{name}" stands for any one segment, "..." for any rest; the
// method "*" for any. The first that fits counts.
type route struct {
	pattern string
	name    string  // several may share one
	action  action  // in Secrets Manager: what the caller must be allowed, see Cloud.find
	serve   handler // nil: not served
}

const versionPath = "/api/v2/secrets/{id}/versions/{version}"

var routes = []struct {
	service service
	routes  []route
}{
	{serviceControl, []route{
		{"GET /", "", "", shows((*Cloud).page)},
		{"HEAD /", "", "", shows((*Cloud).page)},
		{"GET /_sandbox/cases", "", "", shows((*Cloud).caseList)},
		{"GET /_sandbox/clock", "", "", shows((*Cloud).clock)},
		{"POST /_sandbox/clock", "", "", (*Cloud).postClock},
		{"GET /_sandbox/faults", "", "", shows(func(c *Cloud, _ *call) any { return c.Faults() })},
		{"POST /_sandbox/faults", "", "", (*Cloud).postFault},
		{"DELETE /_sandbox/faults", "", "", acts((*Cloud).ClearFaults)},
		{"GET /_sandbox/requests", "", "", shows(func(c *Cloud, _ *call) any { return c.Requests() })},
		{"DELETE /_sandbox/requests", "", "", acts((*Cloud).ClearRequests)},
		{"GET /_sandbox/settings", "", "", shows((*Cloud).getSettings)},
		{"PATCH /_sandbox/settings", "", "", (*Cloud).patchSettings},
		{"GET /_sandbox/state", "", "", shows((*Cloud).state)},
	}},
	{serviceIAM, []route{
		{"POST /identity/token", OpIAMToken, "", (*Cloud).issueToken},
		{"GET /identity/keys", OpIAMKeys, "", shows((*Cloud).listKeys)},
		{"GET /identity/.well-known/openid-configuration", "iam.openid", "", shows((*Cloud).openIDConfiguration)},
	}},
	{serviceAPIKeys, []route{
		{"GET /v1/apikeys", "apikeys.list", "", (*Cloud).listAPIKeys},
		{"POST /v1/apikeys", "apikeys.create", "", withBody((*Cloud).createAPIKey,
			"name! iam_id! account_id description store_value action_when_leaked expires_at")},
		{"GET /v1/apikeys/details", OpAPIKeysDetails, "", shows(func(_ *Cloud, in *call) any { return in.key.json("") })},
		{"GET /v1/apikeys/{id}", "apikeys.get", "", shows((*Cloud).getAPIKey)},
		{"PUT /v1/apikeys/{id}", "apikeys.update", "", withBody((*Cloud).updateAPIKey,
			"name description action_when_leaked expires_at")},
		{"DELETE /v1/apikeys/{id}", "apikeys.delete", "", (*Cloud).deleteAPIKey},
		{"POST /v1/apikeys/{id}/lock", "apikeys.lock", "", (*Cloud).lockAPIKey},
		{"DELETE /v1/apikeys/{id}/lock", "apikeys.lock", "", (*Cloud).lockAPIKey},
		{"POST /v1/apikeys/{id}/disable", "apikeys.disable", "", (*Cloud).disableAPIKey},
		{"DELETE /v1/apikeys/{id}/disable", "apikeys.disable", "", (*Cloud).disableAPIKey},
		{"GET /v1/serviceids", OpServiceIDs, "", (*Cloud).listServiceIDs},
		{"POST /v1/serviceids", OpServiceIDs, "", withBody((*Cloud).createServiceID, "name! account_id! description")},
		{"GET /v1/serviceids/{id}", OpServiceIDs, "", shows(func(_ *Cloud, in *call) any { return in.serviceID.json() })},
		{"DELETE /v1/serviceids/{id}", OpServiceIDs, "", (*Cloud).deleteServiceID},
	}},
	{serviceAccess, []route{
		{"GET /v2/groups", "accessgroups.list", "", (*Cloud).listAccessGroups},
		{"GET /v2/groups/settings", OpNotServed, "", nil},
		{"GET /v2/groups/{id}", "accessgroups.get", "", (*Cloud).getAccessGroup},
	}},
	{serviceSecretsManager, []route{
		{"GET /api/v2/secret_groups", OpGroups, "secret-groups.list", shows((*Cloud).listGroups)},
		{"POST /api/v2/secret_groups", OpGroups, "secret-group.create", withBody((*Cloud).createGroup, "name! description")},
		{"GET /api/v2/secret_groups/{id}", OpGroups, "secret-group.read", shows(func(_ *Cloud, in *call) any { return in.group.json() })},
		{"PATCH /api/v2/secret_groups/{id}", OpGroups, "secret-group.update", withBody((*Cloud).patchGroup, "name description")},
		{"DELETE /api/v2/secret_groups/{id}", OpGroups, "secret-group.delete", (*Cloud).deleteGroup},
		{"GET /api/v2/secret_groups/{group}/secret_types/{type}/secrets/{name}", OpSecretsGet, "secret.read", (*Cloud).getSecretByName},

		{"GET /api/v2/secrets", OpSecretsList, "secrets.list", (*Cloud).listSecrets},
		{"POST /api/v2/secrets", "secrets.create", "secret.create", (*Cloud).createSecret},
		{"GET /api/v2/secrets/{id}", OpSecretsGet, "secret.read", (*Cloud).getSecret},
		{"DELETE /api/v2/secrets/{id}", "secrets.delete", "secret.delete", (*Cloud).deleteSecret},
		{"GET /api/v2/secrets/{id}/metadata", OpSecretsMetadata, "secret-metadata.read", shows((*Cloud).secretMetadata)},
		{"PATCH /api/v2/secrets/{id}/metadata", "secrets.patch", "secret-metadata.update", (*Cloud).patchMetadata},

		{"GET /api/v2/secrets/{id}/versions", "versions.list", "secret-versions.list", shows((*Cloud).listVersions)},
		{"POST /api/v2/secrets/{id}/versions", OpVersionsCreate, "secret-version.create", (*Cloud).createVersion},
		{"GET " + versionPath, OpVersionsGet, "secret-version.read", (*Cloud).getVersion},
		{"GET " + versionPath + "/metadata", OpVersionsMetadata, "secret-version-metadata.read", shows((*Cloud).versionMetadata)},
		{"PATCH " + versionPath + "/metadata", "versions.patch", "secret-version-metadata.update",
			withBody((*Cloud).patchVersionMetadata, "version_custom_metadata")},

		{"GET /api/v2/secrets_locks", OpLocks, "secrets-locks.list", (*Cloud).listAllLocks},
		{"GET /api/v2/secrets/{id}/locks", OpLocks, "secrets-locks.list", (*Cloud).listLocks},
		{"POST /api/v2/secrets/{id}/locks_bulk", OpLocks, "secret-locks.create", withBody((*Cloud).createLocks, "locks!")},
		{"DELETE /api/v2/secrets/{id}/locks_bulk", OpLocks, "secret-locks.delete", (*Cloud).deleteLocks},
		{"GET " + versionPath + "/locks", OpLocks, "secret-version-locks.list", (*Cloud).listLocks},
		{"POST " + versionPath + "/locks_bulk", OpLocks, "secret-version-locks.create", withBody((*Cloud).createLocks, "locks!")},
		{"DELETE " + versionPath + "/locks_bulk", OpLocks, "secret-version-locks.delete", (*Cloud).deleteLocks},
	}},
	{serviceLogsRouting, []route{
		{"GET /v3/targets", OpTargetsList, "", routed("targets")},
		{"GET /v3/targets/{id}", "targets.get", "", routed("targets")},
		{"GET /v3/routes", "routes.list", "", routed("routes")},
		{"GET /v3/routes/{id}", "routes.get", "", routed("routes")},
		{"GET /v3/settings", "settings.get", "", shows(func(c *Cloud, _ *call) any { return c.fixed["settings"][0] })},
		{"GET /v1/tenants", "tenants.list", "", tenants("tenants")},
		{"GET /v1/tenants/{id}", "tenants.get", "", tenants("tenants")},
		{"GET /v1/tenants/{id}/targets", "tenants.targets", "", tenants("tenant_targets")},
		{"GET /v1/tenants/{id}/targets/{target}", "tenants.targets", "", tenants("tenant_targets")},
	}},
}

// notServed are the paths below which a service of IBM has other operations: those of its clients.
var notServed = []struct {
	service service
	paths   string
}{
	{serviceIAM, "/identity/introspect /identity/authorize /identity/passcode /identity/userinfo /identity/logout /oidc/token"},
	{serviceAccess, `/v1/accounts/{id}/settings/access_management /v2/groups /v1/policies /v2/policies /v2/roles /v1/zones /v1/rules
/v1/account_settings /v1/operations /v1/reclamations /v2/resource_instances /v2/resource_keys /v2/resource_bindings /v2/resource_aliases
/v1/group_templates /v1/group_assignments /v1/policy_templates /v1/policy_assignments /v1/role_templates /v1/role_assignments
/v1/action_control_templates /v1/action_control_assignments`},
	{serviceAPIKeys, `/v1/serviceids/{id} /v1/serviceid_groups /v1/profiles /v1/activity /v1/accounts /v1/mfa /v1/preferences /v1/idps
/v2/loginsettings /v1/profile_templates /v1/profile_assignments /v1/account_settings_templates /v1/account_settings_assignments`},
	{serviceSecretsManager, `/api/v2/configurations /api/v2/notifications /api/v2/secrets/{id}/actions /api/v2/secrets/{id}/tasks
/api/v2/secrets/{id}/versions/{version}/actions /api/v2/secrets/{id}/versions/{version}/secret_data`},
	{serviceLogsRouting, "/v3 /v1/tenants"},
}

// An operation is a route of a service, with its pattern read.
type operation struct {
	service service
	route
	method string
	path   []string // segments
}

// operations are the routes, and what is not served. Faults read them, which routes lead to: hence init.
var operations []*operation

func init() {
	add := func(s service, r route) {
		method, path, _ := strings.Cut(r.pattern, " /")
		operations = append(operations, &operation{s, r, method, strings.Split(path, "/")})
	}
	for _, of := range routes {
		for _, r := range of.routes {
			add(of.service, r)
		}
	}
	for _, of := range notServed {
		for path := range strings.FieldsSeq(of.paths) {
			add(of.service, route{pattern: "* " + path + "/...", name: OpNotServed})
		}
	}
}

// operationNames are those that a [Fault] can have.
func operationNames() (names []string) {
	for _, o := range operations {
		if o.name != "" && !slices.Contains(names, o.name) {
			names = append(names, o.name)
		}
	}
	return append(names, OpAny)
}

// findOperation returns the operation for the request and its path parameters, or else the methods that the path has, none for
// an unknown path. A "/" at the end makes no difference outside Secrets Manager.
func findOperation(r *http.Request) (found *operation, params, methods []string) {
	path := strings.TrimPrefix(r.URL.EscapedPath(), "/")
	if strings.HasPrefix(path, "v") {
		path = strings.TrimSuffix(path, "/")
	}
	segments := strings.Split(path, "/")
	for i, segment := range segments {
		var err error
		if segments[i], err = url.PathUnescape(segment); err != nil {
			return nil, nil, nil
		}
	}
	for _, o := range operations {
		params, ok := o.match(segments)
		switch {
		case !ok:
		case o.method == r.Method || o.method == "*":
			return o, params, nil
		default:
			methods = append(methods, o.method)
		}
	}
	slices.Sort(methods)
	return nil, nil, slices.Compact(methods)
}

// match returns the segments that stand where the operation's path has "{name}".
func (o *operation) match(segments []string) (params []string, ok bool) {
	for i, want := range o.path {
		switch {
		case want == "...":
			return params, true
		case i >= len(segments):
			return nil, false
		case strings.HasPrefix(want, "{") && segments[i] != "":
			params = append(params, segments[i])
		case want != segments[i]:
			return nil, false
		}
	}
	return params, len(segments) == len(o.path)
}
