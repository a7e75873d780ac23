package ibmcloudtest

import (
	"net/http"
	"slices"
	"time"
)

// Logs Routing is read only: one target, one route to it, and one tenant of the older API with one target. Whoever has a
// workload's token may read them.
var logsRoutingOperations = []operation{
	routingOp(OpTargetsList, "GET /v3/targets", "targets", (*Cloud).routingTargets),
	routingOp(OpTargetsGet, "GET /v3/targets/{id}", "target", (*Cloud).routingTargets),
	routingOp(OpRoutesList, "GET /v3/routes", "routes", (*Cloud).routes),
	routingOp(OpRoutesGet, "GET /v3/routes/{id}", "route", (*Cloud).routes),
	op(OpSettingsGet, serviceLogsRouting, "GET /v3/settings", http.StatusOK, (*Cloud).getRoutingSettings),
	tenantOp(OpTenantsList, "GET /v1/tenants", "tenants", (*Cloud).tenants),
	tenantOp(OpTenantsGet, "GET /v1/tenants/{id}", "tenant", (*Cloud).tenants),
	tenantOp(OpTenantTargets, "GET /v1/tenants/{id}/targets", "targets", (*Cloud).tenantTargets),
	tenantOp(OpTenantTargets, "GET /v1/tenants/{id}/targets/{target}", "target", (*Cloud).tenantTargets),
}

// routingOp declares an operation that lists items under a name, or returns the one whose id its path ends with.
func routingOp(name, pattern, what string, items func(*Cloud) []object) operation {
	last := len(op(name, serviceLogsRouting, pattern, 0, nil).path) - 1
	return op(name, serviceLogsRouting, pattern, http.StatusOK, func(c *Cloud, in *call) (any, error) {
		if in.operation.path[last][0] != '{' {
			return object{what: items(c)}, nil
		}
		return withID(items(c), in, what)
	})
}

// tenantOp declares an operation of the older API, which asks for a dated version, and lists by name if the query has one.
func tenantOp(name, pattern, what string, items func(*Cloud) []object) operation {
	o := routingOp(name, pattern, what, items)
	serve := o.serve
	o.serve = func(c *Cloud, in *call) (any, error) {
		if _, err := time.Parse(time.DateOnly, in.request.Header.Get("IBM-API-Version")); err != nil {
			return nil, badRequest("The header IBM-API-Version must be a date, YYYY-MM-DD.")
		}
		if len(in.params) > 0 && in.params[0] != c.instance {
			return nil, notFound("tenant")
		}
		body, err := serve(c, in)
		if name := in.request.URL.Query().Get("name"); name != "" && err == nil && o.path[len(o.path)-1][0] != '{' {
			return object{what: slices.DeleteFunc(items(c), func(item object) bool { return item["name"] != name })}, nil
		}
		return body, err
	}
	return o
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
