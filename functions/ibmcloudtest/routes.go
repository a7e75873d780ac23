package ibmcloudtest

import (
	"net/http"
	"net/url"
	"slices"
	"strings"
)

// Operations have these names in a [Fault] and a [Request]; the table of routes has further ones.
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
	OpNotServed        = "not_served" // all that IBM offers and this cloud answers with 501
	OpAny              = "*"          // matches every operation
)

// A service is one of IBM Cloud's. Who may call an operation, and the JSON of its errors, depend on the service.
type service int

const (
	serviceControl service = iota // the sandbox's own interface
	serviceIAM
	serviceAPIKeys // and service ids
	serviceAccess  // access groups, policies and resources
	serviceSecretsManager
	serviceLogsRouting
)

// A handler carries out an operation. It returns the body of the answer, nil for an empty one, or an error,
// as a rule an *apiError. c.mu is held for API keys, access groups and Secrets Manager.
type handler func(c *Cloud, in *call) (any, error)

// shows makes a handler from a function that cannot fail.
func shows(what func(*Cloud, *call) any) handler {
	return func(c *Cloud, in *call) (any, error) { return what(c, in), nil }
}

// acts makes a handler from a function that has no result.
func acts(do func(*Cloud)) handler {
	return func(c *Cloud, _ *call) (any, error) { do(c); return nil, nil }
}

// A route leads requests of one method and path to an operation. The first route that matches is taken.
type route struct {
	pattern string  // in the path "{name}" matches one segment and "..." the rest; the method "*" matches all
	name    string  // of the operation; several routes may share one
	action  action  // Secrets Manager: what the caller must be allowed, see Cloud.authorize
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

// notServed are the paths below which IBM's clients of a service know operations that this cloud does not serve.
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

// An operation is a route with its service and the parts of its pattern.
type operation struct {
	service service
	route
	method string
	path   []string // segments
}

// operations has an entry for each of routes and notServed. Functions in routes refer to operations, which
// Go does not allow in the initial value of a variable: so init fills it.
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

// findOperation returns the operation of a request and its path parameters. If there is none, it returns the
// methods that the path has, none for an unknown path. Except in Secrets Manager, a "/" at the end of the
// path makes no difference.
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

// match returns the segments of a path at the places where the operation's path has "{name}".
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
