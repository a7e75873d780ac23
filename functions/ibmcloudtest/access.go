package ibmcloudtest

import (
	"encoding/json"
	"maps"
	"net/http"
	"slices"
	"strings"
	"time"

	"github.com/google/uuid"
)

// An action is what a Secrets Manager policy allows, without the prefix "secrets-manager.".
type action string

type role map[action]bool

func newRole(base role, actions ...action) role {
	r := role{}
	maps.Copy(r, base)
	for _, a := range actions {
		r[a] = true
	}
	return r
}

// IBM's service roles, each of which includes the one before, and the two custom roles of the
// bootstrap identity.
var (
	roleReader = newRole(nil, "secret-metadata.read", "secrets.list", "secret-versions.list",
		"secret-version-metadata.read", "secret-version-locks.list", "secrets-locks.list")
	roleSecretsReader = newRole(roleReader, "secret.read", "secret-version.read")
	roleWriter        = newRole(roleSecretsReader, "secret-version.create", "secret.create", "secret-metadata.update",
		"secret-version-metadata.update", "secret-locks.create", "secret-version-locks.create")
	roleManager = newRole(roleWriter, "secret.delete", "secret-locks.delete", "secret-version-locks.delete",
		"secret-group.create", "secret-group.read", "secret-group.update", "secret-group.delete", "secret-groups.list")

	roleKeyReader      = newRole(nil, "secret.read")
	roleTokenPublisher = newRole(nil, "secret-version.create", "secret-version-metadata.read", "secret-metadata.read", "secret-version-locks.list")
)

// wholeInstance is the scope of a policy that names no secret group.
const wholeInstance = ""

// A policy grants a role on one secret group (its id), the finest scope that IBM documents, or on
// the whole instance.
type policy struct {
	group string
	role  role
}

// may reports whether the identity may do a in the secret group, or on the whole instance.
func (id *identity) may(a action, group string) bool {
	return slices.ContainsFunc(id.policies, func(p policy) bool { return (p.group == wholeInstance || p.group == group) && p.role[a] })
}

func (id *identity) mayAnywhere(a action) bool {
	return slices.ContainsFunc(id.policies, func(p policy) bool { return p.role[a] })
}

// authorize finds what the path names, sets it in the call, and checks that the caller may do the operation
// there. Access groups are for the admin. In Secrets Manager an operation on a secret needs the action in the
// secret's group, one on groups needs it on the whole instance. That a secret does not exist (404) is reported
// only to callers who have the action in some group; others get 403. The caller of authorize holds c.mu.
func (c *Cloud) authorize(in *call) error {
	a, ofGroups := in.operation.action, in.operation.name == OpGroups
	switch {
	case in.operation.service == serviceAPIKeys:
		return c.authorizeKey(in)
	case in.operation.service == serviceAccess && in.caller.class != IdentityAdmin:
		return fail(http.StatusForbidden, "forbidden", "You are not authorized to use this API.")
	case in.operation.service == serviceAccess:
		return nil
	case ofGroups && !in.caller.may(a, wholeInstance), !ofGroups && !in.caller.mayAnywhere(a):
		return forbidden(a)
	case len(in.params) == 0 || len(in.params) == 3: // a collection, or a secret by its name
		return nil
	case ofGroups:
		if in.group = c.groups[in.params[0]]; in.group == nil {
			return notFound("secret group")
		}
		return nil
	}
	if in.secret = c.secrets[in.params[0]]; in.secret == nil {
		return notFound("secret")
	}
	if !in.caller.may(a, in.secret.groupID) {
		return forbidden(a)
	}
	if len(in.params) == 2 {
		if in.version = in.secret.version(in.params[1]); in.version == nil {
			return notFound("secret version")
		}
	}
	return nil
}

const (
	defaultGroup = "default" // id and name of the group of secrets that name none
	maxGroups    = 200       // of an instance, beside the default one
)

// A group is a secret group: the finest scope of a policy.
type group struct {
	creation
	id          string // a UUID, or "default"
	name        string
	description string
	updatedAt   time.Time
}

func (g *group) json() object {
	return object{"id": g.id, "name": g.name, "description": g.description,
		"created_at": timestamp(g.at), "created_by": g.by, "updated_at": timestamp(g.updatedAt)}
}

// newGroup adds a group. The caller holds c.mu.
func (c *Cloud) newGroup(by *identity, id, name, description string) *group {
	now := c.now()
	g := &group{c.newCreation(by.iamID, now), id, name, description, now}
	c.groups[id] = g
	return g
}

// groupNamed returns the group of that name, or nil.
func (c *Cloud) groupNamed(name string) *group {
	for _, g := range c.groups {
		if g.name == name {
			return g
		}
	}
	return nil
}

type groupPrototype struct {
	Name        *string `json:"name"`
	Description *string `json:"description"`
}

// check rejects an invalid or taken name, and a description that is too long.
func (p *groupPrototype) check(c *Cloud, in *call) error {
	if err := checkTexts(p.Name, p.Description, 64); err != nil {
		return err
	}
	if taken := c.groupNamed(deref(p.Name)); taken != nil && taken != in.group {
		return c.duplicate("secret group")
	}
	return nil
}

func (c *Cloud) createGroup(in *call, p *groupPrototype) (any, error) {
	if len(c.groups) > maxGroups {
		return nil, badRequest("The instance has as many secret groups as it can hold.")
	}
	return c.newGroup(in.caller, uuid.NewString(), *p.Name, deref(p.Description)).json(), nil
}

func (c *Cloud) listGroups(*call) any {
	list := rendered(inOrder(c.groups, func(*group) bool { return true }), (*group).json)
	return object{"secret_groups": list, "total_count": len(list)}
}

func (c *Cloud) patchGroup(in *call, p *groupPrototype) (any, error) {
	g := in.group
	assign(&g.name, p.Name)
	assign(&g.description, p.Description)
	g.updatedAt = in.now
	return g.json(), nil
}

// deleteGroup deletes an empty group, but never the default one.
func (c *Cloud) deleteGroup(in *call) (any, error) {
	g := in.group
	if g.id == defaultGroup {
		return nil, badRequest("The default secret group can't be deleted.")
	}
	for _, s := range c.secrets {
		if s.groupID == g.id {
			return nil, fail(http.StatusPreconditionFailed, "precondition_failed", "The secret group is not empty.")
		}
	}
	delete(c.groups, g.id)
	return nil, nil
}

// fixedThings is what no request can change, as JSON. Logs Routing, which workloads may read, has one target,
// one route to it, the settings, and a tenant with one target for the older API. There are two access groups,
// which the admin may read: "Public Access", which is IBM's own, and one for workloads. newFixed replaces the
// words INSTANCE, ACCOUNT, ADMIN and MADE, and fixedParts the words TARGET, SINK and GROUP.
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

// fixedParts replaces the words in fixedThings that occur more than once.
var fixedParts = strings.NewReplacer(
	"TARGET", `{"id": "INSTANCE0", "crn": "crn:v1:bluemix:public:logs-router:us-south:a/ACCOUNT:INSTANCE:target:INSTANCE0", "name": "cloud-logs-target",
		"target_type": "cloud_logs"}`,
	"SINK", `{"id": "INSTANCE2", "name": "cloud-logs-sink", "log_sink_crn": "crn:v1:bluemix:public:logs:us-south:a/ACCOUNT:INSTANCE::",
		"type": "logs", "etag": "\"1\"", "parameters": {"host": "www.example.com", "port": 443}, "write_status": {"status": "success"},
		"created_at": "MADE", "updated_at": "MADE"}`,
	"GROUP", `"description": "", "account_id": "ACCOUNT", "is_federated": false, "created_at": "MADE", "created_by_id": "ADMIN",
		"last_modified_at": "MADE", "last_modified_by_id": "ADMIN"`)

// newFixed returns the fixed things of a cloud by their kinds. For example, the id INSTANCE0 is the
// instance's own with its last character replaced by 0.
func (c *Cloud) newFixed() (things map[string][]object) {
	names := []string{"MADE", "2026-01-01T00:00:00.000Z", "ACCOUNT", c.account, "ADMIN", c.adminKey.owner.iamID}
	for _, digit := range []string{"0", "1", "2", "3"} {
		names = append(names, "INSTANCE"+digit, c.instance[:35]+digit)
	}
	text := strings.NewReplacer(append(names, "INSTANCE", c.instance)...).Replace(fixedParts.Replace(fixedThings))
	err := json.Unmarshal([]byte(text), &things)
	must(err == nil, "fixedThings does not decode: %v", err)
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

// routed serves a list of Logs Routing, or the item whose id is at the end of the path.
func routed(kind string) handler {
	return func(c *Cloud, in *call) (any, error) {
		if len(in.params) > 0 {
			return withID(c.fixed[kind], in)
		}
		return object{kind: c.fixed[kind]}, nil
	}
}

// tenants serves the older API of Logs Routing. It requires the header IBM-API-Version, and filters a list
// by the query's name.
func tenants(kind string) handler {
	return func(c *Cloud, in *call) (any, error) {
		if _, err := time.Parse(time.DateOnly, in.request.Header.Get("IBM-API-Version")); err != nil {
			return nil, badRequest("The header IBM-API-Version must be a date, YYYY-MM-DD.")
		}
		last := in.operation.path[len(in.operation.path)-1]
		name := in.query.Get("name")
		isOther := func(item object) bool { return name != "" && item["name"] != name }
		switch {
		case len(in.params) > 0 && in.params[0] != c.instance:
			return nil, notFound("tenant")
		case strings.HasPrefix(last, "{"):
			return withID(c.fixed[kind], in)
		default:
			return object{last: slices.DeleteFunc(slices.Clone(c.fixed[kind]), isOther)}, nil
		}
	}
}

func (c *Cloud) listAccessGroups(in *call) (any, error) {
	return in.paginate("groups", c.fixed["groups"], 50)
}

func (c *Cloud) getAccessGroup(in *call) (any, error) { return withID(c.fixed["groups"], in) }

// instanceCRN is the CRN of the instance of a service, up to the part that names a resource in it.
func (c *Cloud) instanceCRN(service string) string {
	return "crn:v1:bluemix:public:" + service + ":us-south:a/" + c.account + ":" + c.instance
}
