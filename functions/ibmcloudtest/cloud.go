package ibmcloudtest

import (
	"sync"
	"time"
)

// Cloud is IBM Cloud in memory: an http.Handler that serves IAM, Secrets Manager, Logs Routing and
// its own control interface (/_sandbox) on one origin. It is safe for concurrent use.
type Cloud struct {
	now            func() time.Time
	keyPropagation time.Duration
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
	sequence   int // secrets, groups and keys made so far: the order of listings
}

// New builds a cloud and seeds it: an account, the four identities and the trusted profile, the two
// secret groups, and the rotations that o asks for.
func New(o Options) *Cloud {
	c := &Cloud{
		now:            o.Now,
		keyPropagation: o.keyPropagation(),
		account:        newAccountID(),
		instance:       newUUID(),
		settings:       o.settings(),
		identities:     map[string]*identity{},
		keys:           map[string]*apiKey{},
		groups:         map[string]*group{},
		secrets:        map[string]*secret{},
		names:          map[secretName]*secret{},
	}
	if c.now == nil {
		c.now = time.Now
	}
	c.requests.limit = o.requestLog()
	c.seed(max(o.Rotations, 1))
	return c
}

// AccountID is the account of every seeded identity: 32 hexadecimal digits.
func (c *Cloud) AccountID() string { return c.account }

// ProfileID is the id of the trusted profile [ProfileName]: "Profile-<uuid>".
func (c *Cloud) ProfileID() string { return c.profile.subject() }

// BootstrapAPIKey is the key of the identity that reads API keys and adds token versions.
func (c *Cloud) BootstrapAPIKey() string { return c.bootstrapKey.value }

// ReaderAPIKey is the key of the identity that may read the token secrets.
func (c *Cloud) ReaderAPIKey() string { return c.readerKey.value }

// AdminAPIKey is the key of the Manager of the Secrets Manager instance.
func (c *Cloud) AdminAPIKey() string { return c.adminKey.value }

// KeyGroupName is the secret group that holds the API keys.
func (c *Cloud) KeyGroupName() string { return c.keyGroup.name }

// TokenGroupName is the secret group that holds the tokens.
func (c *Cloud) TokenGroupName() string { return c.tokenGroup.name }

// SetTokenTTL changes the life of the tokens that IAM issues from now on; d counts in whole seconds.
// It panics if d is below one second. Keep to an hour at most, as IBM does.
func (c *Cloud) SetTokenTTL(d time.Duration) {
	if d < time.Second {
		panic("ibmcloudtest: a token lives at least one second, not " + d.String())
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.settings.tokenTTL = d
}
