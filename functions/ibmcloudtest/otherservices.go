package ibmcloudtest

import (
	"encoding/json"
	"slices"
	"strings"
	"time"
)

// fixedThings are what no request changes: of Logs Routing one target, one route to it, the settings, and one tenant of the older API
// with one target; and the access groups, which are IBM's own, that everybody is in, and one for workloads. Whoever has a
// workload's token may read the former, the admin the latter. INSTANCE, ACCOUNT and ADMIN are of the cloud.
const fixedThings = `{
"targets": [{"id": "INSTANCE0", "crn": "crn:v1:bluemix:public:logs-router:us-south:a/ACCOUNT:INSTANCE:target:INSTANCE0", "name": "cloud-logs-target",
	"target_type": "cloud_logs", "region": "us-south", "managed_by": "account", "write_status": {"status": "success"},
	"destination_crn": "crn:v1:bluemix:public:logs:us-south:a/ACCOUNT:INSTANCE::", "created_at": "MADE", "updated_at": "MADE"}],
"routes": [{"id": "INSTANCE1", "crn": "crn:v1:bluemix:public:logs-router:us-south:a/ACCOUNT:INSTANCE:route:INSTANCE1", "name": "everything",
	"managed_by": "account", "created_at": "MADE", "updated_at": "MADE", "rules": [{"action": "send", "targets": [TARGET],
	"inclusion_filters": [{"operand": "location", "operator": "is", "values": ["us-south"]}]}]}],
"settings": [{"default_targets": [TARGET], "permitted_target_regions": ["us-south"], "primary_metadata_region": "us-south",
	"backup_metadata_region": "us-east", "private_api_endpoint_only": false, "api_version": 3}],
"tenants": [{"id": "INSTANCE", "crn": "crn:v1:bluemix:public:logs-router:us-south:a/ACCOUNT:INSTANCE::", "name": "default", "etag": "\"1\"",
	"targets": [SINK], "created_at": "MADE", "updated_at": "MADE"}],
"tenant_targets": [SINK],
"groups": [{"id": "AccessGroupId-INSTANCE3", "name": "workloads", GROUP}, {"id": "AccessGroupId-PublicAccess", "name": "Public Access", GROUP}]
}`

// fixedParts stand in fixedThings more than once.
var fixedParts = strings.NewReplacer(
	"TARGET", `{"id": "INSTANCE0", "crn": "crn:v1:bluemix:public:logs-router:us-south:a/ACCOUNT:INSTANCE:target:INSTANCE0", "name": "cloud-logs-target",
		"target_type": "cloud_logs"}`,
	"SINK", `{"id": "INSTANCE2", "name": "cloud-logs-sink", "log_sink_crn": "crn:v1:bluemix:public:logs:us-south:a/ACCOUNT:INSTANCE::",
		"type": "logs", "etag": "\"1\"", "parameters": {"host": "www.example.com", "port": 443}, "write_status": {"status": "success"},
		"created_at": "MADE", "updated_at": "MADE"}`,
	"GROUP", `"description": "", "account_id": "ACCOUNT", "is_federated": false, "created_at": "MADE", "created_by_id": "ADMIN",
		"last_modified_at": "MADE", "last_modified_by_id": "ADMIN"`)

// newFixed returns the fixed things of a cloud by their kinds. An id that ends in a digit is the instance's with that at its end.
func (c *Cloud) newFixed() (things map[string][]object) {
	names := []string{"MADE", "2026-01-01T00:00:00.000Z", "ACCOUNT", c.account, "ADMIN", c.adminKey.owner.iamID}
	for _, digit := range []string{"0", "1", "2", "3"} {
		names = append(names, "INSTANCE"+digit, c.instance[:35]+digit)
	}
	text := strings.NewReplacer(append(names, "INSTANCE", c.instance)...).Replace(fixedParts.Replace(fixedThings))
	err := json.Unmarshal([]byte(text), &things)
	must(err == nil, "what is fixed does not decode: %v", err)
	return things
}

// withID returns the item that the path's last parameter names.
func withID(items []object, in *call) (any, error) {
	i := slices.IndexFunc(items, func(item object) bool { return item["id"] == in.params[len(in.params)-1] })
	if i < 0 {
		return nil, notFound("requested item")
	}
	return items[i], nil
}

// routed serves a list of Logs Routing, or the item whose id the path ends with.
func routed(kind string) handler {
	return func(c *Cloud, in *call) (any, error) {
		if len(in.params) > 0 {
			return withID(c.fixed[kind], in)
		}
		return object{kind: c.fixed[kind]}, nil
	}
}

func (c *Cloud) getRoutingSettings(*call) (any, error) { return c.fixed["settings"][0], nil }

// tenants serves the older API, which asks for a date, and lists by name if the query has one.
func tenants(kind string) handler {
	return func(c *Cloud, in *call) (any, error) {
		if _, err := time.Parse(time.DateOnly, in.request.Header.Get("IBM-API-Version")); err != nil {
			return nil, badRequest("The header IBM-API-Version must be a date, YYYY-MM-DD.")
		}
		last := in.operation.path[len(in.operation.path)-1]
		switch name := in.query.Get("name"); {
		case len(in.params) > 0 && in.params[0] != c.instance:
			return nil, notFound("tenant")
		case strings.HasPrefix(last, "{"):
			return withID(c.fixed[kind], in)
		default:
			return object{last: slices.DeleteFunc(slices.Clone(c.fixed[kind]), func(item object) bool { return name != "" && item["name"] != name })}, nil
		}
	}
}

func (c *Cloud) listAccessGroups(in *call) (any, error) {
	return in.paginate("groups", c.fixed["groups"], 50)
}

func (c *Cloud) getAccessGroup(in *call) (any, error) { return withID(c.fixed["groups"], in) }

// instanceCRN is the CRN of a service's instance, up to what it names there.
func (c *Cloud) instanceCRN(service string) string {
	return "crn:v1:bluemix:public:" + service + ":us-south:a/" + c.account + ":" + c.instance
}
