package ibmcloudtest

import (
	"net/http"
	"time"
)

var logsRoutingOperations = []operation{
	op(OpTargetsList, serviceLogsRouting, http.MethodGet, "/v3/targets", http.StatusOK, (*Cloud).listTargets),
	op(OpSettingsGet, serviceLogsRouting, http.MethodGet, "/v3/settings", http.StatusOK, (*Cloud).getRoutingSettings),
	op(OpTenantsList, serviceLogsRouting, http.MethodGet, "/v1/tenants", http.StatusOK, (*Cloud).listTenants),
}

// routingSince is when the one target and the one tenant were made.
const routingSince = "2026-01-01T00:00:00.000Z"

// checkRouting lets only the workloads call Logs Routing.
func (in *call) checkRouting() error {
	if in.caller.class != IdentityWorkload {
		return fail(http.StatusForbidden, "forbidden", "The caller lacks the permission to view Logs Routing.")
	}
	return nil
}

func (c *Cloud) targetID() string { return c.instance[:35] + "0" }

func (c *Cloud) listTargets(in *call) (any, error) {
	if err := in.checkRouting(); err != nil {
		return nil, err
	}
	return map[string]any{"targets": []any{map[string]any{
		"id":              c.targetID(),
		"name":            "cloud-logs-target",
		"crn":             "crn:v1:bluemix:public:logs-router:us-south:a/" + c.account + ":" + c.instance + ":target:" + c.targetID(),
		"destination_crn": "crn:v1:bluemix:public:logs:us-south:a/" + c.account + ":" + c.instance + "::",
		"target_type":     "cloud_logs",
		"region":          "us-south",
		"write_status":    map[string]string{"status": "success"},
		"created_at":      routingSince,
		"updated_at":      routingSince,
		"managed_by":      "account",
	}}}, nil
}

func (c *Cloud) getRoutingSettings(in *call) (any, error) {
	if err := in.checkRouting(); err != nil {
		return nil, err
	}
	return map[string]any{
		"default_targets":           []any{map[string]string{"id": c.targetID()}},
		"permitted_target_regions":  []string{"us-south"},
		"primary_metadata_region":   "us-south",
		"backup_metadata_region":    "us-east",
		"private_api_endpoint_only": false,
	}, nil
}

// listTenants serves the older API, which asks for a dated version.
func (c *Cloud) listTenants(in *call) (any, error) {
	if err := in.checkRouting(); err != nil {
		return nil, err
	}
	if _, err := time.Parse(time.DateOnly, in.request.Header.Get("IBM-API-Version")); err != nil {
		return nil, badRequest("The header IBM-API-Version must be a date, YYYY-MM-DD.")
	}
	return map[string]any{"tenants": []any{map[string]any{
		"id":         c.instance,
		"crn":        "crn:v1:bluemix:public:logs-router:us-south:a/" + c.account + ":" + c.instance + "::",
		"name":       "default",
		"created_at": routingSince,
		"updated_at": routingSince,
		"etag":       `"1"`,
		"targets":    []any{},
	}}}, nil
}
