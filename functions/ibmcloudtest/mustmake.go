package ibmcloudtest

import (
	"time"
)

// A SecretSpec describes a secret for [Cloud.MustCreateSecret].
type SecretSpec struct {
	Type        string         // arbitrary (if empty), kv, iam_credentials or service_credentials
	Name        string         // if empty, one is made up
	Group       string         // a group's name: KeyGroupName (if empty), TokenGroupName or "default"
	Payload     string         // arbitrary
	Data        map[string]any // kv
	IAMID       string         // iam_credentials, service_credentials: whose keys; if empty, a new workload's
	ReuseAPIKey bool           // iam_credentials: false makes a new key on each read
	Metadata    map[string]any // of the first version
	Expires     time.Time      // arbitrary: its expiration date; if zero, none
}

// MustCreateSecret makes a secret and returns its id. A key that it holds is known to IAM at once;
// those that later reads or versions mint are not, see Options.KeyPropagation.
func (c *Cloud) MustCreateSecret(spec SecretSpec) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if spec.Type == "" {
		spec.Type = kindArbitrary
	}
	if spec.Name == "" {
		spec.Name = spec.Type + "-" + newUUID()
	}
	if spec.Group == "" {
		spec.Group = c.keyGroup.name
	}
	g := c.groupNamed(spec.Group)
	switch {
	case g == nil:
		panic("ibmcloudtest: no secret group " + spec.Group)
	case c.names[secretName{spec.Type, spec.Name}] != nil:
		panic("ibmcloudtest: the name " + spec.Name + " is taken")
	}
	s := &secret{kind: spec.Type, name: spec.Name, groupID: g.id, expiration: spec.Expires}
	first := &value{}
	switch spec.Type {
	case kindArbitrary:
		first.payload = spec.Payload
	case kindKV:
		first.data = mustObject(spec.Data)
	case kindIAMCredentials, kindServiceCredentials:
		s.minting = c.mustMinting(spec)
		first.key = c.newKey(s.minting.owner, c.now())
	default:
		panic("ibmcloudtest: no secret type " + spec.Type)
	}
	c.addSecret(s, c.adminKey.owner)
	c.addVersion(s, &version{customMetadata: mustObject(spec.Metadata), value: first}, c.adminKey.owner)
	return s.id
}

func (c *Cloud) mustMinting(spec SecretSpec) *minting {
	m := &minting{ttl: "24h", reuse: spec.ReuseAPIKey || spec.Type == kindServiceCredentials}
	if spec.Type == kindServiceCredentials {
		m.sourceService = []byte(`{"instance":{"crn":"crn:v1:bluemix:public:logs:us-south:a/` + c.account + `:` + c.instance + `::"}}`)
	}
	if spec.IAMID == "" {
		m.owner = c.newServiceID(IdentityWorkload, spec.Name, c.account)
		return m
	}
	m.owner, m.isStatic = c.mustIdentity(spec.IAMID), true
	return m
}

// MustCreateServiceID makes a service id without any permission and returns its iam id. An empty
// account is the cloud's own.
func (c *Cloud) MustCreateServiceID(name, account string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	if account == "" {
		account = c.account
	}
	return c.newServiceID("", name, account).iamID
}

// MustCreateAPIKey makes a further API key for a service id and returns it.
func (c *Cloud) MustCreateAPIKey(iamID string) string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.newKey(c.mustIdentity(iamID), c.now()).value
}

// MustDeleteAPIKey makes IAM forget an API key. Tokens issued for it live on, as IBM's do.
func (c *Cloud) MustDeleteAPIKey(key string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.keys[key]; !ok {
		panic("ibmcloudtest: deleting an API key that does not exist")
	}
	delete(c.keys, key)
}

// MustMintToken returns a token of the key's service id that expires ttl from now, without a
// request. Unless ttl is longer than the token lifetime in force, the token was issued that
// lifetime before its end: a ttl of five minutes gives an ageing token, a negative one an expired one.
func (c *Cloud) MustMintToken(key string, ttl time.Duration) string {
	c.mu.Lock()
	k, ok := c.keys[key]
	life := max(c.settings.tokenTTL, ttl)
	c.mu.Unlock()
	if !ok {
		panic("ibmcloudtest: minting a token for an API key that does not exist")
	}
	return signToken(k.owner, grantAPIKey, c.now().Add(ttl-life), life)
}

func (c *Cloud) mustIdentity(iamID string) *identity {
	id, ok := c.identities[iamID]
	if !ok {
		panic("ibmcloudtest: no service id " + iamID)
	}
	return id
}
