package ibmcloudtest

import (
	"net/http"
	"slices"
	"strings"
	"time"
)

// Logs Routing is read only: one target, one route to it, and one tenant of the older API with one target. Whoever has a
// workload's token may read them.
var logsRoutingOperations = []operation{
	routingOp(OpTargetsList, "GET /v3/targets", "targets", (*Cloud).routingTargets),
	routingOp("targets.get", "GET /v3/targets/{id}", "target", (*Cloud).routingTargets),
	routingOp("routes.list", "GET /v3/routes", "routes", (*Cloud).routes),
	routingOp("routes.get", "GET /v3/routes/{id}", "route", (*Cloud).routes),
	op(OpSettingsGet, serviceLogsRouting, "GET /v3/settings", http.StatusOK, (*Cloud).getRoutingSettings),
	routingOp("tenants.list", "GET /v1/tenants", "tenants", (*Cloud).tenants),
	routingOp("tenants.get", "GET /v1/tenants/{id}", "tenant", (*Cloud).tenants),
	routingOp("tenants.targets", "GET /v1/tenants/{id}/targets", "targets", (*Cloud).tenantTargets),
	routingOp("tenants.targets", "GET /v1/tenants/{id}/targets/{target}", "target", (*Cloud).tenantTargets),
}

// routingOp declares an operation that lists items under a name, or returns the one whose id its path ends with. Version 1
// asks for a date, and lists by name if the query has one.
func routingOp(name, pattern, what string, items func(*Cloud) []object) operation {
	return op(name, serviceLogsRouting, pattern, http.StatusOK, func(c *Cloud, in *call) (any, error) {
		wanted := ""
		if strings.Contains(pattern, "/v1/") {
			wanted = in.request.URL.Query().Get("name")
			if _, err := time.Parse(time.DateOnly, in.request.Header.Get("IBM-API-Version")); err != nil {
				return nil, badRequest("The header IBM-API-Version must be a date, YYYY-MM-DD.")
			}
			if len(in.params) > 0 && in.params[0] != c.instance {
				return nil, notFound("tenant")
			}
		}
		if strings.HasSuffix(pattern, "}") {
			return withID(items(c), in, what)
		}
		return object{what: slices.DeleteFunc(items(c), func(item object) bool { return wanted != "" && item["name"] != wanted })}, nil
	})
}

// instanceCRN is the CRN of a service's instance, up to what it names there.
func (c *Cloud) instanceCRN(service string) string {
	return "crn:v1:bluemix:public:" + service + ":us-south:a/" + c.account + ":" + c.instance
}

// madeAt is when that was made which no request changes.
const madeAt = "2026-01-01T00:00:00.000Z"

// routed completes an item of Logs Routing, whose id differs from the instance's in the last digit.
func (c *Cloud) routed(kind, digit string, item object) object {
	id := c.instance[:35] + digit
	item["id"], item["crn"] = id, c.instanceCRN("logs-router")+":"+kind+":"+id
	item["created_at"], item["updated_at"] = madeAt, madeAt
	return item
}

func (c *Cloud) routingTargets() []object {
	return []object{c.routed("target", "0", object{
		"name": "cloud-logs-target", "target_type": "cloud_logs", "region": "us-south", "managed_by": "account",
		"destination_crn": c.instanceCRN("logs") + "::", "write_status": object{"status": "success"},
	})}
}

// targetReference is what names the target elsewhere.
func (c *Cloud) targetReference() []object {
	target := c.routingTargets()[0]
	return []object{{"id": target["id"], "crn": target["crn"], "name": target["name"], "target_type": target["target_type"]}}
}

func (c *Cloud) routes() []object {
	return []object{c.routed("route", "1", object{
		"name": "everything", "managed_by": "account",
		"rules": []object{{"action": "send", "targets": c.targetReference(), "inclusion_filters": []object{
			{"operand": "location", "operator": "is", "values": []string{"us-south"}},
		}}},
	})}
}

func (c *Cloud) getRoutingSettings(*call) (any, error) {
	return object{
		"default_targets": c.targetReference(), "permitted_target_regions": []string{"us-south"},
		"primary_metadata_region": "us-south", "backup_metadata_region": "us-east",
		"private_api_endpoint_only": false, "api_version": 3,
	}, nil
}

func (c *Cloud) tenants() []object {
	tenant := c.routed("", "", object{"name": "default", "etag": `"1"`, "targets": c.tenantTargets()})
	tenant["id"], tenant["crn"] = c.instance, c.instanceCRN("logs-router")+"::"
	return []object{tenant}
}

func (c *Cloud) tenantTargets() []object {
	target := c.routed("target", "2", object{
		"name": "cloud-logs-sink", "log_sink_crn": c.instanceCRN("logs") + "::", "type": "logs", "etag": `"1"`,
		"parameters": object{"host": "www.example.com", "port": 443}, "write_status": object{"status": "success"},
	})
	delete(target, "crn")
	return []object{target}
}

var accessOperations = []operation{
	op("accessgroups.list", serviceAccess, "GET /v2/groups", http.StatusOK, (*Cloud).listAccessGroups),
	op("accessgroups.get", serviceAccess, "GET /v2/groups/{id}", http.StatusOK, (*Cloud).getAccessGroup),
}

// accessGroups are the account's: IBM's own, which everybody is in, and one for workloads. The admin may read them, which is
// what a program needs that is configured with the id of one.
func (c *Cloud) accessGroups() []object {
	var groups []object
	for id, name := range map[string]string{"AccessGroupId-PublicAccess": "Public Access", "AccessGroupId-" + c.instance[:35] + "3": "workloads"} {
		groups = append(groups, object{
			"id": id, "name": name, "description": "", "account_id": c.account, "is_federated": false,
			"created_at": madeAt, "created_by_id": c.adminKey.owner.iamID, "last_modified_at": madeAt, "last_modified_by_id": c.adminKey.owner.iamID,
			"href": "https://iam.cloud.ibm.com/v2/groups/" + id, "crn": "crn:v1:bluemix:public:iam-access-groups::a/" + c.account + "::group:" + id,
		})
	}
	slices.SortFunc(groups, func(a, b object) int { return strings.Compare(b["name"].(string), a["name"].(string)) })
	return groups
}

func (c *Cloud) listAccessGroups(in *call) (any, error) {
	return paginate(in, "groups", c.accessGroups(), 50, func(group object) object { return group })
}

func (c *Cloud) getAccessGroup(in *call) (any, error) {
	return withID(c.accessGroups(), in, "access group")
}

// withID returns the item that the path's last parameter names.
func withID(items []object, in *call, what string) (any, error) {
	for _, item := range items {
		if item["id"] == in.params[len(in.params)-1] {
			return item, nil
		}
	}
	return nil, notFound(what)
}

// OpNotServed names in the request log, and for a [Fault], each operation of IBM's that this cloud does not serve. It
// answers 501.
const OpNotServed = "not_served"

// notServed lists, as IBM's SDKs have them, the operations of the services that are not served.
var notServed = []struct {
	service service
	pairs   string // methods and path, apart by white space
}{
	{serviceIAM, `POST /identity/introspect  GET /identity/authorize  GET /identity/passcode  GET,POST /identity/userinfo
POST /identity/logout  POST /oidc/token`},
	{serviceAPIKeys, `PUT /v1/serviceids/{id}  POST,DELETE /v1/serviceids/{id}/lock  GET,POST /v1/serviceid_groups
GET,PUT,DELETE /v1/serviceid_groups/{id}  GET,POST /v1/profiles  GET,PUT,DELETE /v1/profiles/{id}
GET,POST /v1/profiles/{id}/rules  GET,PUT,DELETE /v1/profiles/{id}/rules/{rule}
GET,POST,DELETE /v1/profiles/{id}/links  GET,DELETE /v1/profiles/{id}/links/{link}
GET,PUT /v1/profiles/{id}/identities  POST /v1/profiles/{id}/identities/{type}
GET,DELETE /v1/profiles/{id}/identities/{type}/{identity}  POST /v1/activity/accounts/{id}/report
GET /v1/activity/accounts/{id}/report/{reference}  GET,PUT /v1/accounts/{id}/settings/identity
GET /v1/accounts/{id}/effective_settings/identity  GET,POST /v1/accounts/{id}/limits/identity
GET /v1/mfa/accounts/{id}/status  POST /v1/mfa/accounts/{id}/report  GET /v1/mfa/accounts/{id}/report/{reference}
GET /v1/preferences/accounts/{id}/identities/{identity}
GET,PUT,DELETE /v1/preferences/accounts/{id}/identities/{identity}/{service}/{preference}  GET,POST /v1/idps
GET,PUT,DELETE /v1/idps/{id}  GET /v1/idps/{id}/consumers  GET,PUT /v1/idps/{id}/saml/metadata
GET,POST /v1/idps/{id}/test  GET,PUT /v2/loginsettings/{id}  GET /v2/loginsettings/{id}/idps
GET,POST,PUT,DELETE /v2/loginsettings/{id}/idps/{idp}` + templates("profile") + templates("account_settings")},
	{serviceAccess, `GET,POST /v2/groups  GET,PATCH,DELETE /v2/groups/{id}  GET,PUT /v2/groups/{id}/members
POST /v2/groups/{id}/members/delete  PUT,DELETE /v2/groups/_allgroups/members/{identity}
HEAD,DELETE /v2/groups/{id}/members/{identity}  GET,POST /v2/groups/{id}/rules
GET,PUT,DELETE /v2/groups/{id}/rules/{rule}  GET,PATCH /v2/groups/settings  GET,POST /v1/policies
GET,PUT,PATCH,DELETE /v1/policies/{id}  GET,POST /v2/policies  GET,PUT,DELETE /v2/policies/{id}  GET,POST /v2/roles
GET,PUT,DELETE /v2/roles/{id}  GET,PATCH /v1/accounts/{id}/settings/access_management` + templates("group") + templates("policy") + templates("action_control") + templates("role") + `
GET,POST /v1/zones  GET,PUT,DELETE /v1/zones/{id}  GET /v1/zones/serviceref_targets  GET /v1/zones/serviceref_targets/{name}
GET,POST /v1/rules  GET,PUT,DELETE /v1/rules/{id}  GET /v1/account_settings/{id}  GET /v1/operations
GET,POST /v2/resource_instances  GET,PATCH,DELETE /v2/resource_instances/{id}  GET /v2/resource_instances/{id}/resource_keys
GET /v2/resource_instances/{id}/resource_aliases  POST,DELETE /v2/resource_instances/{id}/lock  GET,POST /v2/resource_keys
DELETE /v2/resource_instances/{id}/last_operation  GET,PATCH,DELETE /v2/resource_keys/{id}  GET,POST /v2/resource_bindings
GET,PATCH,DELETE /v2/resource_bindings/{id}  GET,POST /v2/resource_aliases  GET,PATCH,DELETE /v2/resource_aliases/{id}
GET /v2/resource_aliases/{id}/resource_bindings  GET /v1/reclamations  POST /v1/reclamations/{id}/actions/{name}`},
	{serviceSecretsManager, `GET,POST /api/v2/configurations  GET,PATCH,DELETE /api/v2/configurations/{name}
POST /api/v2/configurations/{name}/actions  GET,POST,DELETE /api/v2/notifications/registration
GET /api/v2/notifications/registration/test  POST /api/v2/secrets/{id}/actions  GET /api/v2/secrets/{id}/tasks
GET,PUT,DELETE /api/v2/secrets/{id}/tasks/{task}  POST /api/v2/secrets/{id}/versions/{version}/actions
DELETE /api/v2/secrets/{id}/versions/{version}/secret_data`},
	{serviceLogsRouting, `POST /v3/targets  PATCH,DELETE /v3/targets/{id}  POST /v3/routes  PATCH,DELETE /v3/routes/{id}  PATCH /v3/settings
POST /v3/destinations/query  GET,POST,DELETE /v3/migrate  POST /v1/tenants  PATCH,DELETE /v1/tenants/{id}
POST /v1/tenants/{id}/targets  PATCH,DELETE /v1/tenants/{id}/targets/{target}`},
}

// templates are the operations on templates of a kind and on their assignments to accounts.
func templates(kind string) string {
	return strings.ReplaceAll(`
GET,POST /v1/KIND_templates  GET,DELETE /v1/KIND_templates/{id}  GET,POST /v1/KIND_templates/{id}/versions
GET,PUT,DELETE /v1/KIND_templates/{id}/versions/{version}  POST /v1/KIND_templates/{id}/versions/{version}/commit
GET,POST /v1/KIND_assignments  GET,PATCH,DELETE /v1/KIND_assignments/{id}`, "KIND", kind)
}

func notServedOperations() (list []operation) {
	for _, group := range notServed {
		words := strings.Fields(group.pairs)
		for i := 0; i < len(words); i += 2 {
			for method := range strings.SplitSeq(words[i], ",") {
				list = append(list, op(OpNotServed, group.service, method+" "+words[i+1], 0, nil))
			}
		}
	}
	return list
}

// doesNotServe answers what IBM has and this cloud has not.
func doesNotServe(what string) *apiError {
	return fail(http.StatusNotImplemented, "not_implemented", "The sandbox does not serve "+what+".")
}
