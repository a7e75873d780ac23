// Package ibmcloudtest is a stateful emulation of the parts of IBM Cloud that a token rotation
// meets: IAM's token endpoint, Secrets Manager v2 and Logs Routing.
//
// It is an independent reading of IBM's published contract: it imports neither IBM's SDK nor any
// other package of this module, so it can catch both out. Tokens are real RS256 JWTs, identities
// are enforced (401, 403), secrets keep versions and locks, and any operation can be made to fail.
//
//	cloud := ibmcloudtest.New(ibmcloudtest.Options{})
//	client := &http.Client{Transport: cloud.Transport()} // in process; or httptest.NewServer(cloud)
//	cloud.AddFault(ibmcloudtest.Fault{Op: ibmcloudtest.OpIAMToken, Times: 2, Case: "key_disabled"})
//
// What IBM does not document is listed in [Undocumented] and can be switched.
package ibmcloudtest

import (
	"cmp"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"reflect"
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
	ahead          atomic.Int64 // of the clock of Options, in nanoseconds
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

	faults   faultQueue
	requests requestLog
	verified tokenCache

	mu         sync.Mutex // guards everything below
	settings   settings
	identities map[string]*identity // by iam id
	keys       map[string]*apiKey   // by value
	groups     map[string]*group    // by id
	secrets    map[string]*secret   // by id
	names      map[secretName]*secret
	keySecrets []*secret // those that make keys, in the order of creation
	sequence   int       // secrets, groups and keys made so far: the order of listings
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
	c.requests.limit = max(cmp.Or(o.RequestLog, 100_000), 0)
	c.seed(max(o.Rotations, 1))
	return c
}

// lock locks c.mu and returns what unlocks it.
func (c *Cloud) lock() func() {
	c.mu.Lock()
	return c.mu.Unlock
}

// AccountID is the account of every seeded identity: 32 hexadecimal digits.
func (c *Cloud) AccountID() string { return c.account }

// ProfileID is the id of the trusted profile [ProfileName]: "Profile-<uuid>".
func (c *Cloud) ProfileID() string { return c.profile.subject() }

// BootstrapAPIKey is the key of [IdentityBootstrap].
func (c *Cloud) BootstrapAPIKey() string { return c.bootstrapKey.value }

// ReaderAPIKey is the key of [IdentityReader].
func (c *Cloud) ReaderAPIKey() string { return c.readerKey.value }

// AdminAPIKey is the key of [IdentityAdmin].
func (c *Cloud) AdminAPIKey() string { return c.adminKey.value }

// KeyGroupName is the name of the secret group of the API keys.
func (c *Cloud) KeyGroupName() string { return c.keyGroup.name }

// KeyGroupID is the id of that group.
func (c *Cloud) KeyGroupID() string { return c.keyGroup.id }

// TokenGroupName is the name of the secret group of the tokens.
func (c *Cloud) TokenGroupName() string { return c.tokenGroup.name }

// TokenGroupID is the id of that group.
func (c *Cloud) TokenGroupID() string { return c.tokenGroup.id }

// BootstrapIAMID is the service id of the bootstrap identity: "iam-ServiceId-<uuid>".
func (c *Cloud) BootstrapIAMID() string { return c.bootstrapKey.owner.iamID }

// ReaderIAMID is the service id of the reader: "iam-ServiceId-<uuid>".
func (c *Cloud) ReaderIAMID() string { return c.readerKey.owner.iamID }

// SetTokenTTL changes the lifetime of the tokens that IAM issues from now on; d counts in whole seconds.
// It panics if d is below one second. Keep to an hour at most, as IBM does.
func (c *Cloud) SetTokenTTL(d time.Duration) {
	must(d >= time.Second, "the lifetime of a token is one second at least, not %s", d)
	defer c.lock()()
	c.settings.tokenTTL = d
}

// maxAhead is how far the clock can be ahead of that of [Options].
const maxAhead = 10 * 365 * day

// Advance moves the cloud's clock forward: what falls into that time, such as rotations by rule, is played at the next
// request. It panics unless d is above 0 and the clock stays within ten years of that of [Options].
func (c *Cloud) Advance(d time.Duration) {
	err := c.advance(d)
	must(err == nil, "%v", err)
}

func (c *Cloud) advance(d time.Duration) error {
	c.mu.Lock() // two at once must not go past the limit
	defer c.mu.Unlock()
	if d <= 0 || d > maxAhead-time.Duration(c.ahead.Load()) {
		return fmt.Errorf("advance must be a Go duration above 0, such as 24h, and leave the clock ten years ahead at most")
	}
	c.ahead.Add(int64(d))
	return nil
}

// maxTokenTTL is the longest lifetime that IAM gives an access token.
const maxTokenTTL = time.Hour

// Options describes the cloud to build. The zero value is a cloud with one rotation, tokens of one
// hour and the machine's clock.
type Options struct {
	// Rotations is how many pairs of key secret and token secret are seeded, each with a workload
	// service id. If 0, one.
	Rotations int

	// TokenTTL is the lifetime of a new access token, in whole seconds. If 0, one hour.
	TokenTTL time.Duration

	// Now is the cloud's clock. If nil, time.Now.
	Now func() time.Time

	// KeyPropagation is how long IAM does not know a key that Secrets Manager has just minted for
	// an iam_credentials or service_credentials secret. If 0, two seconds, as IBM documents; if
	// negative, the key is known at once. Keys made by a Must… method are always known at once.
	KeyPropagation time.Duration

	// RequestLog is how many requests are remembered, the newest. If 0, 100,000; if negative, none.
	RequestLog int

	// Host is a further name or address at which the control interface answers, beside 127.0.0.1, ::1 and localhost: the
	// one that the server listens on. If empty, none.
	Host string

	// EnvFile is the file with the environment of whoever uses the cloud, as the command line names it. The live page shows
	// it in the commands that rotate. If empty or "-", the page shows none.
	EnvFile string

	// Undocumented chooses among the answers that IBM leaves open.
	Undocumented Undocumented
}

// Undocumented holds what IBM's documentation leaves open. A zero field is its default, the first value that is allowed. They
// can be changed over HTTP too: PATCH /_sandbox/settings. What each decides is in scripts/sandbox/README.md.
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

// A choice is one field of Undocumented, with its name and its allowed values, the default first.
type choice struct {
	name    string
	value   reflect.Value
	allowed []string
}

func (u *Undocumented) choices() (list []choice) {
	fields := reflect.ValueOf(u).Elem()
	for i := range fields.NumField() {
		tag := fields.Type().Field(i).Tag
		list = append(list, choice{strings.TrimSuffix(tag.Get("json"), ",omitempty"), fields.Field(i), listOf(tag.Get("allowed"))})
	}
	return list
}

// or returns u with the zero fields taken from other.
func (u Undocumented) or(other Undocumented) Undocumented {
	others := other.choices()
	for i, choice := range u.choices() {
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
	for _, choice := range u.choices() {
		if !choice.value.IsZero() && !slices.Contains(choice.allowed, fmt.Sprint(choice.value)) {
			return fmt.Errorf("%s must be one of %v", choice.name, choice.allowed)
		}
	}
	defer c.lock()()
	c.play(c.now()) // as it was until now
	c.settings.Undocumented = u.or(c.settings.Undocumented)
	return nil
}

// settings are the options that can change while the cloud runs. Guarded by Cloud.mu.
type settings struct {
	tokenTTL time.Duration
	Undocumented
}

func (o Options) settings() settings {
	var defaults Undocumented
	for _, choice := range defaults.choices() {
		if _, err := fmt.Sscan(choice.allowed[0], choice.value.Addr().Interface()); err != nil {
			panic(err)
		}
	}
	return settings{cmp.Or(o.TokenTTL, maxTokenTTL), o.Undocumented.or(defaults)}
}

// noTokenYet is the payload of a token secret before its first rotation.
const noTokenYet = "no token yet"

// A Rotation is one seeded pair of secrets with the service id between them.
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
	admin := c.newServiceID(IdentityAdmin, "secrets-manager-admin", c.account, policy{wholeInstance, roleManager})
	c.adminKey = c.newKey(admin, now)

	c.groups[defaultGroup] = &group{id: defaultGroup, name: defaultGroup, createdBy: admin.iamID, createdAt: now, updatedAt: now}
	c.keyGroup = c.newGroup(admin, "iam-api-keys", "API keys of the workloads")
	c.tokenGroup = c.newGroup(admin, "iam-tokens", "IAM access tokens for downstream jobs")

	bootstrap := []policy{{c.keyGroup.id, roleKeyReader}, {c.tokenGroup.id, roleTokenPublisher}}
	c.bootstrapKey = c.newKey(c.newServiceID(IdentityBootstrap, "iam-token-rotator", c.account, bootstrap...), now)
	c.readerKey = c.newKey(c.newServiceID(IdentityReader, "token-reader", c.account, policy{c.tokenGroup.id, roleSecretsReader}), now)
	c.profile = &identity{
		class: IdentityBootstrap, iamID: "iam-Profile-" + uuid.NewString(), name: ProfileName, account: c.account, policies: bootstrap,
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
	seed := func(name string, in *group, payload string) *secret {
		return c.addSecret(&secret{kind: kindArbitrary, name: name, groupID: in.id}, &version{value: &value{payload: payload}}, admin)
	}
	keySecret := seed("api-key-"+name, c.keyGroup, key.value)
	tokenSecret := seed("iam-token-"+name, c.tokenGroup, noTokenYet)
	return Rotation{
		Name: name, APIKeySecret: keySecret.id, TokenSecret: tokenSecret.id,
		APIKey: key.value, IAMID: workload.iamID,
	}
}

// A secretPrototype is the body that creates a secret, a version or a change of metadata: the union
// of the fields of all types. Pointers and raw values keep absent and empty apart.
type secretPrototype struct {
	Kind                  string          `json:"secret_type"`
	Name                  *string         `json:"name"`
	Description           *string         `json:"description"`
	GroupID               *string         `json:"secret_group_id"`
	Labels                []string        `json:"labels"`
	CustomMetadata        json.RawMessage `json:"custom_metadata"`
	VersionCustomMetadata json.RawMessage `json:"version_custom_metadata"`
	ExpirationDate        *time.Time      `json:"expiration_date"`
	Payload               *string         `json:"payload"`
	Data                  json.RawMessage `json:"data"`
	TTL                   json.RawMessage `json:"ttl"`
	ReuseAPIKey           bool            `json:"reuse_api_key"`
	ServiceID             string          `json:"service_id"`
	AccountID             string          `json:"account_id"`
	AccessGroups          []string        `json:"access_groups"`
	Rotation              json.RawMessage `json:"rotation"`
	RestoreFrom           *string         `json:"restore_from_version"`
	SourceService         json.RawMessage `json:"source_service"`
}

// kindFields lists what each type's bodies may hold; "!" marks what they must. The sources are the
// SDK's prototypes.
var kindFields = map[string]struct{ create, version, patch []string }{
	kindArbitrary: {
		create:  []string{"payload!", "expiration_date"},
		version: []string{"payload!"}, // no expiration_date: a version cannot move it
		patch:   []string{"expiration_date"},
	},
	kindKV: {
		create:  []string{"data!"},
		version: []string{"data!"},
	},
	kindIAMCredentials: {
		create:  []string{"ttl!", "access_groups", "service_id", "account_id", "reuse_api_key", "rotation"},
		version: []string{"restore_from_version"},
		patch:   []string{"ttl", "rotation"},
	},
	kindServiceCredentials: {
		create: []string{"source_service!", "ttl", "rotation"},
		patch:  []string{"ttl", "rotation"},
	},
}

// otherKinds are the types that IBM has beside them.
var otherKinds = []string{"username_password", "imported_cert", "public_cert", "private_cert", "custom_credentials"}

var (
	commonCreateFields = []string{"secret_type!", "name!", "description", "secret_group_id", "labels",
		"custom_metadata", "version_custom_metadata"}
	commonVersionFields = []string{"custom_metadata", "version_custom_metadata"}
	commonPatchFields   = []string{"name", "description", "labels", "custom_metadata"}
)

func (in *call) decodeCreate() (*secretPrototype, error) {
	var kind struct {
		Kind string `json:"secret_type"`
	}
	_ = json.Unmarshal(in.body, &kind) // decode reports what is wrong
	fields, ok := kindFields[kind.Kind]
	switch {
	case slices.Contains(otherKinds, kind.Kind):
		return nil, doesNotServe("secrets of the type " + kind.Kind)
	case kind.Kind != "" && !ok:
		return nil, badField("secret_type", "must be arbitrary, kv, iam_credentials or service_credentials here")
	}
	return in.decodeSecret(kind.Kind, mediaJSON, commonCreateFields, fields.create)
}

// decodeSecret reads a body about a secret of the given type: with the fields of all types and those of its own.
func (in *call) decodeSecret(kind, mediaType string, common, own []string) (*secretPrototype, error) {
	p := secretPrototype{Kind: kind}
	return &p, in.decode(&p, mediaType, slices.Concat(common, own)...)
}

// newAPIKey returns a random API key in IBM's form: 44 characters of [A-Za-z0-9_-].
func newAPIKey() string {
	b := make([]byte, 33)
	rand.Read(b)
	return base64.RawURLEncoding.EncodeToString(b)
}
