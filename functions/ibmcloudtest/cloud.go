// Package ibmcloudtest is a stateful emulation of the parts of IBM Cloud that a token rotation
// uses: IAM, Secrets Manager v2 and Logs Routing.
//
// It is an independent implementation of what IBM publishes: it imports neither IBM's SDK nor any
// other package of this module, so it reveals mistakes of both. Tokens are real RS256 JWTs, tokens and
// permissions are checked (401, 403), secrets have versions and locks, and any operation can be made to fail.
//
//	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
//	client := &http.Client{Transport: cloud.Transport()} // in process; or httptest.NewServer(cloud)
//	cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Times: 2, Case: "key_disabled"})
//
// Where IBM's documentation leaves a behaviour open, [Undocumented] has a setting for it.
package ibmcloudtest

import (
	"cmp"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/google/uuid"
)

// Cloud is IBM Cloud in memory: an http.Handler that serves IAM, Secrets Manager, Logs Routing and
// its own control interface (/_sandbox) on one origin. It is safe for concurrent use.
type Cloud struct {
	now            func() time.Time
	ahead          atomic.Int64 // how far now is ahead of the clock of Options, in nanoseconds
	keyPropagation time.Duration
	host, envFile  string // of Options
	account        string // 32 hexadecimal digits
	instance       string // the Secrets Manager instance, a UUID
	profile        *identity
	bootstrapKey   *apiKey
	readerKey      *apiKey
	adminKey       *apiKey
	keyGroup       *group
	tokenGroup     *group
	rotations      []Rotation
	fixed          map[string][]object // what no request can change, by kind; see fixedThings

	maxRequests int // how many of the newest requests Requests returns

	mu         sync.Mutex        // guards everything below
	faults     []Fault           // oldest first; Skip and Times count down
	requests   []Request         // in the order in which they ended, up to twice maxRequests
	verified   map[string]claims // by token, of those whose signature is valid
	settings   settings
	identities map[string]*identity // by iam id
	keys       map[string]*apiKey   // by value
	groups     map[string]*group    // by id
	secrets    map[string]*secret   // by id
	names      map[secretName]*secret
	keySecrets []*secret // the secrets that create API keys, in the order of creation
	sequence   int       // number of creations so far, see newCreation
}

// New builds a cloud and seeds it: an account, the four identities and the trusted profile, the two
// secret groups, and the rotations that o asks for.
func New(o Options) *Cloud {
	c := &Cloud{
		keyPropagation: max(cmp.Or(o.KeyPropagation, 2*time.Second), 0),
		host:           o.Host,
		envFile:        o.EnvFile,
		account:        strings.ReplaceAll(uuid.NewString(), "-", ""),
		instance:       uuid.NewString(),
		settings:       o.settings(),
		maxRequests:    max(cmp.Or(o.RequestLog, 100_000), 0),
		verified:       map[string]claims{},
		identities:     map[string]*identity{},
		keys:           map[string]*apiKey{},
		groups:         map[string]*group{},
		secrets:        map[string]*secret{},
		names:          map[secretName]*secret{},
	}
	clock := o.Now
	if clock == nil {
		clock = time.Now
	}
	c.now = func() time.Time { return clock().Add(time.Duration(c.ahead.Load())) }
	c.seed(max(o.Rotations, 1))
	return c
}

// lock locks c.mu and returns what unlocks it.
func (c *Cloud) lock() func() {
	c.mu.Lock()
	return c.mu.Unlock
}

// AccountID is the account of every seeded identity: 32 hexadecimal digits. A …IAMID is
// "iam-ServiceId-<uuid>", ProfileID, the id of the trusted profile [ProfileName], is "Profile-<uuid>".
// The key group holds the secrets with API keys, the token group those for tokens.
func (c *Cloud) AccountID() string       { return c.account }
func (c *Cloud) ProfileID() string       { return c.profile.subject() }
func (c *Cloud) BootstrapAPIKey() string { return c.bootstrapKey.value }
func (c *Cloud) BootstrapIAMID() string  { return c.bootstrapKey.owner.iamID }
func (c *Cloud) ReaderAPIKey() string    { return c.readerKey.value }
func (c *Cloud) ReaderIAMID() string     { return c.readerKey.owner.iamID }
func (c *Cloud) AdminAPIKey() string     { return c.adminKey.value }
func (c *Cloud) KeyGroupName() string    { return c.keyGroup.name }
func (c *Cloud) KeyGroupID() string      { return c.keyGroup.id }
func (c *Cloud) TokenGroupName() string  { return c.tokenGroup.name }
func (c *Cloud) TokenGroupID() string    { return c.tokenGroup.id }

// SetTokenTTL changes the lifetime of the tokens that IAM issues from now on; a fraction of a second is
// dropped. It panics if d is below one second. IBM's tokens are valid for an hour at most.
func (c *Cloud) SetTokenTTL(d time.Duration) {
	must(d >= time.Second, "the lifetime of a token is one second at least, not %s", d)
	defer c.lock()()
	c.settings.TokenTTL = int64(d / time.Second)
}

// maxAhead is how far Advance can move the clock in all.
const maxAhead = 10 * 365 * day

// Advance moves the cloud's clock forward. The next request first carries out what has become due, such as
// rotations by rule. Advance panics unless d is above 0 and the clock stays within ten years of that of
// [Options].
func (c *Cloud) Advance(d time.Duration) {
	err := c.advance(d)
	must(err == nil, "%v", err)
}

func (c *Cloud) advance(d time.Duration) error {
	c.mu.Lock() // two calls at once must not exceed the limit
	defer c.mu.Unlock()
	if d <= 0 || d > maxAhead-time.Duration(c.ahead.Load()) {
		return fmt.Errorf("advance must be a Go duration above 0, such as 24h, and leave the clock ten years ahead at most")
	}
	c.ahead.Add(int64(d))
	return nil
}

// maxTokenTTL is the longest lifetime that IAM gives an access token.
const maxTokenTTL = time.Hour

// Options describes the cloud to build. The zero value gives one rotation, tokens of one hour and this
// machine's clock.
type Options struct {
	Rotations int              // number of seeded rotations, see [Rotation]; if 0, one
	TokenTTL  time.Duration    // lifetime of a new access token, in whole seconds; if 0, one hour
	Now       func() time.Time // the cloud's clock; if nil, time.Now

	// KeyPropagation is the time until IAM knows a key that was created by a request or by Secrets
	// Manager. If 0, two seconds, as IBM documents; if negative, none. Keys created by a Must… method are
	// known at once.
	KeyPropagation time.Duration

	RequestLog   int          // how many of the newest requests to keep; if 0, 100,000; if negative, none
	Host         string       // a further Host that the control interface accepts, see [IsLocal]
	EnvFile      string       // the file that the live page names in its commands; empty or "-" for none
	Undocumented Undocumented // behaviour that IBM's documentation leaves open
}

// Undocumented chooses behaviour that IBM's documentation leaves open. A zero field stands for the default,
// the first of the allowed values. PATCH /_sandbox/settings changes the fields over HTTP.
// scripts/sandbox/README.md explains them.
type Undocumented struct {
	UnknownKey                int    `json:"unknown_key_status,omitempty" allowed:"400,401"`
	Duplicate                 int    `json:"duplicate_status,omitempty" allowed:"409,400"`
	TooLarge                  int    `json:"too_large_status,omitempty" allowed:"400,413"`
	Destroyed                 int    `json:"destroyed_status,omitempty" allowed:"400,404,410,412"`
	EndedKeySecret            int    `json:"ended_key_secret_status,omitempty" allowed:"200,404,410"`
	KeyAfterAutomaticRotation string `json:"key_after_automatic_rotation,omitempty" allowed:"ttl,at_once"`
	KeyAfterManualRotation    string `json:"key_after_manual_rotation,omitempty" allowed:"ttl,at_once"`
	OlderKey                  string `json:"older_key,omitempty" allowed:"ttl,deleted"`
	KeyAuthorization          string `json:"key_authorization,omitempty" allowed:"account,service_ids,none"`
	GroupsAuthorization       string `json:"groups_authorization,omitempty" allowed:"not_required,required"`
	OwnKeys                   string `json:"own_keys,omitempty" allowed:"details,none,policy"`
	RuleChange                string `json:"rule_change,omitempty" allowed:"keeps,rotates"`
	AutomaticRotation         string `json:"automatic_rotation,omitempty" allowed:"works,fails"`
}

// or returns u with the zero fields taken from other.
func (u Undocumented) or(other Undocumented) Undocumented {
	others := settingsOf(&other)
	for i, choice := range settingsOf(&u) {
		if choice.value.IsZero() {
			choice.value.Set(others[i].value)
		}
	}
	return u
}

// Set changes the fields of u that are not zero. It panics if one has a value that is not allowed.
func (c *Cloud) Set(u Undocumented) {
	err := c.set(u)
	must(err == nil, "%v", err)
}

func (c *Cloud) set(u Undocumented) error {
	for _, choice := range settingsOf(&u) {
		if !choice.value.IsZero() && !slices.Contains(choice.allowed, fmt.Sprint(choice.value)) {
			return fmt.Errorf("%s must be one of %v", choice.name, choice.allowed)
		}
	}
	defer c.lock()()
	c.catchUp(c.now()) // what is due until now follows the old settings
	c.settings.Undocumented = u.or(c.settings.Undocumented)
	return nil
}

// settings are the options that can change while the cloud runs. Guarded by Cloud.mu.
type settings struct {
	TokenTTL int64 `json:"token_ttl_seconds"`
	Undocumented
}

func (s settings) tokenTTL() time.Duration { return time.Duration(s.TokenTTL) * time.Second }

func (o Options) settings() settings {
	var defaults Undocumented
	for _, choice := range settingsOf(&defaults) {
		_, err := fmt.Sscan(choice.allowed[0], choice.value.Addr().Interface())
		must(err == nil, "the default of %s: %v", choice.name, err)
	}
	return settings{int64(cmp.Or(o.TokenTTL, maxTokenTTL) / time.Second), o.Undocumented.or(defaults)}
}

// noTokenYet is the payload of a token secret before its first rotation.
const noTokenYet = "no token yet"

// A Rotation is a seeded pair of secrets: one holds a workload's API key, the other is for its tokens.
type Rotation struct {
	Name         string // "default", or "rotation-00001" and so on when there are several
	APIKeySecret string // id of the arbitrary secret that holds APIKey, in the key group
	TokenSecret  string // id of the arbitrary secret for the token, in the token group
	APIKey       string // the workload service id's key
	IAMID        string // the workload service id: "iam-ServiceId-<uuid>"
}

func (c *Cloud) Rotations() []Rotation { return slices.Clone(c.rotations) }

func (c *Cloud) seed(rotations int) {
	defer c.lock()()
	now := c.now()
	seedKey := func(class, name string, policies ...policy) *apiKey {
		return c.newKey(c.newServiceID(class, name, c.account, policies...), name, now)
	}
	c.adminKey = seedKey(IdentityAdmin, "secrets-manager-admin", policy{wholeInstance, roleManager})
	admin := c.adminKey.owner
	c.newGroup(admin, defaultGroup, defaultGroup, "")
	c.keyGroup = c.newGroup(admin, uuid.NewString(), "iam-api-keys", "API keys of the workloads")
	c.tokenGroup = c.newGroup(admin, uuid.NewString(), "iam-tokens", "IAM access tokens for downstream jobs")

	bootstrap := []policy{{c.keyGroup.id, roleKeyReader}, {c.tokenGroup.id, roleTokenPublisher}}
	c.bootstrapKey = seedKey(IdentityBootstrap, "iam-token-rotator", bootstrap...)
	c.readerKey = seedKey(IdentityReader, "token-reader", policy{c.tokenGroup.id, roleSecretsReader})
	c.profile = &identity{
		class: IdentityBootstrap, iamID: "iam-Profile-" + uuid.NewString(), name: ProfileName, account: c.account, policies: bootstrap,
	}
	c.identities[c.profile.iamID] = c.profile
	c.fixed = c.newFixed()

	seedSecret := func(name string, in *group, payload string) string {
		return c.addSecret(&secretPrototype{Kind: kindArbitrary, Name: &name, Payload: &payload}, in.id, nil, admin, now).id
	}
	for i := range rotations {
		name := "default"
		if rotations > 1 {
			name = fmt.Sprintf("rotation-%05d", i+1)
		}
		key := seedKey(IdentityWorkload, "workload-"+name)
		c.rotations = append(c.rotations, Rotation{
			Name: name, APIKeySecret: seedSecret("api-key-"+name, c.keyGroup, key.value),
			TokenSecret: seedSecret("iam-token-"+name, c.tokenGroup, noTokenYet), APIKey: key.value, IAMID: key.owner.iamID,
		})
	}
}
