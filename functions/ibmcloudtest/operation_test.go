package ibmcloudtest_test

import (
	"fmt"
	"slices"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestEveryOperationHasItsName(t *testing.T) {
	cloud, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := cloud.Rotations()[0].TokenSecret
	routes := map[string][][2]string{
		"iam.token":         {{"POST", "/identity/token"}},
		"iam.keys":          {{"GET", "/identity/keys"}},
		"apikeys.details":   {{"GET", "/v1/apikeys/details"}},
		"groups":            {{"POST", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups"}, {"GET", "/api/v2/secret_groups/x"}, {"PATCH", "/api/v2/secret_groups/x"}, {"DELETE", "/api/v2/secret_groups/x"}},
		"secrets.list":      {{"GET", "/api/v2/secrets"}},
		"secrets.create":    {{"POST", "/api/v2/secrets"}},
		"secrets.get":       {{"GET", "/api/v2/secrets/%s"}, {"GET", "/api/v2/secret_groups/g/secret_types/t/secrets/n"}},
		"secrets.delete":    {{"DELETE", "/api/v2/secrets/%s"}},
		"secrets.metadata":  {{"GET", "/api/v2/secrets/%s/metadata"}},
		"secrets.patch":     {{"PATCH", "/api/v2/secrets/%s/metadata"}},
		"versions.create":   {{"POST", "/api/v2/secrets/%s/versions"}},
		"versions.list":     {{"GET", "/api/v2/secrets/%s/versions"}},
		"versions.get":      {{"GET", "/api/v2/secrets/%s/versions/current"}},
		"versions.metadata": {{"GET", "/api/v2/secrets/%s/versions/current/metadata"}},
		"versions.patch":    {{"PATCH", "/api/v2/secrets/%s/versions/current/metadata"}},
		"locks": {{"POST", "/api/v2/secrets/%s/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/locks_bulk"}, {"GET", "/api/v2/secrets/%s/locks"},
			{"POST", "/api/v2/secrets/%s/versions/current/locks_bulk"}, {"DELETE", "/api/v2/secrets/%s/versions/current/locks_bulk"},
			{"GET", "/api/v2/secrets/%s/versions/current/locks"}, {"GET", "/api/v2/secrets_locks"}},
		"targets.list": {{"GET", "/v3/targets"}},
		"settings.get": {{"GET", "/v3/settings"}},
		"tenants.list": {{"GET", "/v1/tenants"}},
	}
	for name, requests := range routes {
		for _, request := range requests {
			if err := cloud.AddFault(ibmcloudtest.Fault{Op: name, Times: 1, Status: 418}); err != nil {
				t.Fatal(err)
			}
			path := request[1]
			if slices.Contains([]byte(path), '%') {
				path = fmt.Sprintf(path, id)
			}
			if got := c.do(admin, request[0], path, ""); got.status != 418 {
				t.Errorf("%s %s is not %s: got %d, want the fault", request[0], request[1], name, got.status)
			}
			cloud.ClearFaults()
		}
	}
}
