package ibmcloudtest

import (
	"net/http"
	"strings"
)

// OpNotServed names in the request log, and for a [Fault], each operation of IBM's that this cloud does not serve. It
// answers 501.
const OpNotServed = "not_served"

// notServed lists, as IBM's SDKs have them, the operations of the services that are not served.
var notServed = []struct {
	service service
	lines   string // methods and path
}{
	{serviceIAM, `POST /identity/introspect
GET /identity/authorize
GET /identity/passcode
GET,POST /identity/userinfo
POST /identity/logout`},
	{serviceAPIKeys, `PUT /v1/serviceids/{id}
POST,DELETE /v1/serviceids/{id}/lock
GET,POST /v1/serviceid_groups
GET,PUT,DELETE /v1/serviceid_groups/{id}
GET,POST /v1/profiles
GET,PUT,DELETE /v1/profiles/{id}
GET,POST /v1/profiles/{id}/rules
GET,PUT,DELETE /v1/profiles/{id}/rules/{rule}
GET,POST,DELETE /v1/profiles/{id}/links
GET,DELETE /v1/profiles/{id}/links/{link}
GET,PUT /v1/profiles/{id}/identities
POST /v1/profiles/{id}/identities/{type}
GET,DELETE /v1/profiles/{id}/identities/{type}/{identity}
POST /v1/activity/accounts/{id}/report
GET /v1/activity/accounts/{id}/report/{reference}
GET,PUT /v1/accounts/{id}/settings/identity
GET /v1/accounts/{id}/effective_settings/identity
GET,POST /v1/accounts/{id}/limits/identity
GET /v1/mfa/accounts/{id}/status
POST /v1/mfa/accounts/{id}/report
GET /v1/mfa/accounts/{id}/report/{reference}
GET /v1/preferences/accounts/{id}/identities/{identity}
GET,PUT,DELETE /v1/preferences/accounts/{id}/identities/{identity}/{service}/{preference}
GET,POST /v1/idps
GET,PUT,DELETE /v1/idps/{id}
GET /v1/idps/{id}/consumers
GET,PUT /v1/idps/{id}/saml/metadata
GET,POST /v1/idps/{id}/test
GET,PUT /v2/loginsettings/{id}
GET /v2/loginsettings/{id}/idps
GET,POST,PUT,DELETE /v2/loginsettings/{id}/idps/{idp}` + templates("profile") + templates("account_settings")},
	{serviceAccess, `GET,POST /v2/groups
GET,PATCH,DELETE /v2/groups/{id}
GET,PUT /v2/groups/{id}/members
POST /v2/groups/{id}/members/delete
PUT,DELETE /v2/groups/_allgroups/members/{identity}
HEAD,DELETE /v2/groups/{id}/members/{identity}
GET,POST /v2/groups/{id}/rules
GET,PUT,DELETE /v2/groups/{id}/rules/{rule}
GET,PATCH /v2/groups/settings
GET,POST /v1/policies
GET,PUT,PATCH,DELETE /v1/policies/{id}
GET,POST /v2/policies
GET,PUT,DELETE /v2/policies/{id}
GET,POST /v2/roles
GET,PUT,DELETE /v2/roles/{id}
GET,PATCH /v1/accounts/{id}/settings/access_management` + templates("group") + templates("policy") + templates("action_control") + templates("role")},
	{serviceSecretsManager, `GET,POST /api/v2/configurations
GET,PATCH,DELETE /api/v2/configurations/{name}
POST /api/v2/configurations/{name}/actions
GET,POST,DELETE /api/v2/notifications/registration
GET /api/v2/notifications/registration/test
POST /api/v2/secrets/{id}/actions
GET /api/v2/secrets/{id}/tasks
GET,PUT,DELETE /api/v2/secrets/{id}/tasks/{task}
POST /api/v2/secrets/{id}/versions/{version}/actions
DELETE /api/v2/secrets/{id}/versions/{version}/secret_data`},
	{serviceLogsRouting, `POST /v3/targets
PATCH,DELETE /v3/targets/{id}
POST /v3/routes
PATCH,DELETE /v3/routes/{id}
PATCH /v3/settings
POST /v3/destinations/query
GET,POST,DELETE /v3/migrate
POST /v1/tenants
PATCH,DELETE /v1/tenants/{id}
POST /v1/tenants/{id}/targets
PATCH,DELETE /v1/tenants/{id}/targets/{target}`},
}

// templates are the operations on templates of a kind and on their assignments to accounts.
func templates(kind string) string {
	return strings.ReplaceAll(`
GET,POST /v1/KIND_templates
GET,DELETE /v1/KIND_templates/{id}
GET,POST /v1/KIND_templates/{id}/versions
GET,PUT,DELETE /v1/KIND_templates/{id}/versions/{version}
POST /v1/KIND_templates/{id}/versions/{version}/commit
GET,POST /v1/KIND_assignments
GET,PATCH,DELETE /v1/KIND_assignments/{id}`, "KIND", kind)
}

func notServedOperations() (list []operation) {
	for _, group := range notServed {
		for line := range strings.SplitSeq(group.lines, "\n") {
			methods, path, _ := strings.Cut(line, " ")
			for method := range strings.SplitSeq(methods, ",") {
				list = append(list, op(OpNotServed, group.service, method+" "+path, 0, nil))
			}
		}
	}
	return list
}

// doesNotServe answers what IBM has and this cloud has not.
func doesNotServe(what string) *apiError {
	return fail(http.StatusNotImplemented, "not_implemented", "The sandbox does not serve "+what+".")
}
