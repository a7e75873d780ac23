package ibmcloudtest_test

import (
	"strings"
	"testing"

	"iam-token-rotator/functions/ibmcloudtest"
)

func TestGroups(t *testing.T) {
	_, c, admin := newAdmin(t, ibmcloudtest.Options{})
	id := c.want(201, admin, "POST", "/api/v2/secret_groups", `{"name":"my-group","description":"d"}`).at("id").(string)
	c.want(409, admin, "POST", "/api/v2/secret_groups", `{"name":"my-group"}`)
	c.want(400, admin, "POST", "/api/v2/secret_groups", `{"name":"`+strings.Repeat("g", 65)+`"}`)
	c.want(409, admin, "PATCH", "/api/v2/secret_groups/"+id, `{"name":"default"}`)
	if got := c.want(200, admin, "PATCH", "/api/v2/secret_groups/"+id, `{"name":"my-group","description":"e"}`); got.at("description") != "e" {
		t.Errorf("patched: got %s, want description e", got.raw)
	}
	list := c.want(200, admin, "GET", "/api/v2/secret_groups", "")
	if list.at("total_count") != 4.0 || list.at("secret_groups", 0, "id") != "default" || list.at("secret_groups", 3, "name") != "my-group" {
		t.Errorf("list: got %s, want default, two seeded ones and my-group", list.raw)
	}
	secret := c.want(201, admin, "POST", "/api/v2/secrets", `{"secret_type":"kv","name":"inside","data":{"k":"v"},"secret_group_id":"`+id+`"}`)
	c.want(412, admin, "DELETE", "/api/v2/secret_groups/"+id, "")
	c.want(204, admin, "DELETE", "/api/v2/secrets/"+secret.at("id").(string), "")
	c.want(204, admin, "DELETE", "/api/v2/secret_groups/"+id, "")
	c.want(404, admin, "GET", "/api/v2/secret_groups/"+id, "")
	c.want(400, admin, "DELETE", "/api/v2/secret_groups/default", "")
}
