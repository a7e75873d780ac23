package ibmcloudtest

import (
	"fmt"
	"slices"
)

// noTokenYet is the payload of a token secret before its first rotation.
const noTokenYet = "no token yet"

// A Rotation is one seeded pair of secrets with the service id between them.
type Rotation struct {
	Name             string // "default", or "rotation-00001" and so on when there are several
	APIKeySecret     string // id of the arbitrary secret that holds APIKey, in the key group
	APIKeySecretName string // its name within the key group
	TokenSecret      string // id of the arbitrary secret for the token, in the token group
	APIKey           string // the workload service id's key
	IAMID            string // the workload service id: "iam-ServiceId-<uuid>"
}

// Rotations returns the seeded rotations in order.
func (c *Cloud) Rotations() []Rotation { return slices.Clone(c.rotations) }

func (c *Cloud) seed(rotations int) {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := c.now()
	admin := c.newServiceID(IdentityAdmin, "secrets-manager-admin", c.account, policy{wholeInstance, roleManager})
	c.adminKey = c.newKey(admin, now)

	c.groups[defaultGroup] = &group{id: defaultGroup, name: defaultGroup, createdBy: admin.iamID, createdAt: now, updatedAt: now}
	c.keyGroup = c.newGroup(admin, "iam-api-keys", "API keys of the workloads")
	c.tokenGroup = c.newGroup(admin, "iam-tokens", "IAM access tokens for downstream jobs")

	bootstrap := []policy{{c.keyGroup.id, roleKeyReader}, {c.tokenGroup.id, roleTokenPublisher}}
	c.bootstrapKey = c.newKey(c.newServiceID(IdentityBootstrap, "iam-token-rotator", c.account, bootstrap...), now)
	c.readerKey = c.newKey(c.newServiceID(IdentityReader, "token-reader", c.account, policy{c.tokenGroup.id, roleSecretsReader}), now)
	c.profile = &identity{
		class: IdentityBootstrap, iamID: "iam-Profile-" + newUUID(), name: ProfileName, account: c.account, policies: bootstrap,
	}
	c.identities[c.profile.iamID] = c.profile

	c.rotations = make([]Rotation, rotations)
	for i := range c.rotations {
		name := "default"
		if rotations > 1 {
			name = fmt.Sprintf("rotation-%05d", i+1)
		}
		c.rotations[i] = c.seedRotation(admin, name)
	}
}

func (c *Cloud) seedRotation(admin *identity, name string) Rotation {
	workload := c.newServiceID(IdentityWorkload, "workload-"+name, c.account)
	key := c.newKey(workload, c.now())
	keySecret := c.addSecret(&secret{kind: kindArbitrary, name: "api-key-" + name, groupID: c.keyGroup.id}, admin)
	c.addVersion(keySecret, &version{value: &value{payload: key.value}}, admin)
	tokenSecret := c.addSecret(&secret{kind: kindArbitrary, name: "iam-token-" + name, groupID: c.tokenGroup.id}, admin)
	c.addVersion(tokenSecret, &version{value: &value{payload: noTokenYet}}, admin)
	return Rotation{
		Name:             name,
		APIKeySecret:     keySecret.id,
		APIKeySecretName: keySecret.name,
		TokenSecret:      tokenSecret.id,
		APIKey:           key.value,
		IAMID:            workload.iamID,
	}
}
