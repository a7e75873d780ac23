// Package config turns environment variables into values. It checks all of them
// before a connection is opened, and reports every problem at once.
package config

import (
	"bytes"
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/url"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
)

// Config is a valid configuration.
type Config struct {
	SecretsManagerURL string `env:"SECRETS_MANAGER_URL"`                            // origin without a path
	IAMURL            string `env:"IAM_URL" envDefault:"https://iam.cloud.ibm.com"` // likewise
	Credential
	BootstrapExpiresAt Date `env:"BOOTSTRAP_EXPIRES_AT"` // zero when not known

	MinRemaining     time.Duration `env:"MIN_REMAINING" envDefault:"8m"`
	RotationInterval time.Duration `env:"ROTATION_INTERVAL" envDefault:"50m"`
	MaxRPS           int           `env:"SECRETS_MANAGER_MAX_RPS" envDefault:"15"` // 0 means no limit
	Concurrency      int           `env:"CONCURRENCY" envDefault:"16"`
	MetricsNamespace string        `env:"METRICS_NAMESPACE" envDefault:"IAMTokenRotator"`
	LogLevel         Level         `env:"LOG_LEVEL" envDefault:"info"`
	EventBus         string        `env:"EVENT_BUS_NAME"` // name or ARN of an EventBridge bus; "" for no events

	EventBusRegion string
	ManagedKey     rotation.KeyRef     // the secret that IBM renews the bootstrap key in; zero if there is none
	Rotations      []rotation.Rotation // at least one; names and token secrets are unique
}

// Credential is how the bootstrap identity authenticates: exactly one of the fields
// APIKey, APIKeyARN, ProfileName, ProfileID and Token is set.
type Credential struct {
	Variable string // the name of the one that is set: "SECRETS_MANAGER_APIKEY"

	APIKey          iamtoken.Secret `env:"SECRETS_MANAGER_APIKEY"`
	APIKeyARN       string          `env:"SECRETS_MANAGER_APIKEY_ARN"` // of an AWS Secrets Manager secret that holds the key
	ProfileName     string          `env:"IAM_PROFILE_NAME"`
	ProfileID       string          `env:"IAM_PROFILE_ID"`
	CRTokenFilename string          `env:"CR_TOKEN_FILENAME"` // empty: the default of the compute resource
	Token           iamtoken.Secret `env:"IAM_TOKEN"`
}

// HasKey reports whether the identity is that of an API key.
func (c Credential) HasKey() bool { return !c.APIKey.IsZero() || c.APIKeyARN != "" }

// Load reads the configuration from environ, in the form of os.Environ, and a file of
// rotations with readFile, which is like os.ReadFile. The error joins the
// problems found, at most maxReported of them; none repeats a key or token. With an error the
// Config holds what could be read, because the caller needs the settings for logs and metrics.
func Load(environ []string, readFile func(name string) ([]byte, error)) (Config, error) {
	var found problems
	v := parseVariables(environ, &found)
	cfg := v.Config
	cfg.SecretsManagerURL = found.origin("SECRETS_MANAGER_URL", v.SecretsManagerURL)
	cfg.IAMURL = found.origin("IAM_URL", v.IAMURL)
	cfg.Credential = v.credential(&found)
	cfg.Rotations = v.rotations(&found, readFile)
	cfg.ManagedKey = v.managedKey(&found, cfg.Rotations)
	cfg.EventBusRegion = v.eventBusRegion(&found)
	v.checkLimits(&found)
	for _, setting := range network.CheckEnvironment(environ) {
		found.add(setting.Name, "%s", setting.Problem)
	}
	if found.names["METRICS_NAMESPACE"] {
		cfg.MetricsNamespace = "IAMTokenRotator" // CloudWatch would drop the very metric that counts this failure
	}
	return cfg, found.err()
}

// variables are the environment variables that are read. An empty variable is like an unset
// one, and white space around a value is ignored.
type variables struct {
	Config // variables that are fields of Config

	ManagedKeySecret string          `env:"BOOTSTRAP_KEY_SECRET"`
	APIKeySecret     string          `env:"API_KEY_SECRET"`
	TokenSecret      string          `env:"TOKEN_SECRET"`
	ExpectAccount    string          `env:"EXPECT_ACCOUNT"`
	ExpectIAMID      string          `env:"EXPECT_IAM_ID"`
	TokenFormat      iamtoken.Format `env:"TOKEN_FORMAT" envDefault:"raw"`
	RotationList     string          `env:"ROTATIONS"`
	RotationsFile    string          `env:"ROTATIONS_FILE"`
	AWSRegion        string          `env:"AWS_REGION"`
	AWSDefaultRegion string          `env:"AWS_DEFAULT_REGION"`

	set map[string]string // by name
}

// namesOfSet returns the names of those variables that are set.
func (v variables) namesOfSet(names ...string) []string {
	return slices.DeleteFunc(names, func(name string) bool { return v.set[name] == "" })
}

func parseVariables(environ []string, found *problems) variables {
	set := env.ToMap(environ)
	for name, value := range set {
		if set[name] = strings.TrimSpace(value); set[name] == "" {
			delete(set, name)
		}
	}
	v := variables{set: set}
	err := env.ParseWithOptions(&v, env.Options{Environment: set})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return v
	}
	for _, err := range all.Errors {
		var parse env.ParseError
		if errors.As(err, &parse) {
			field, _ := reflect.TypeFor[variables]().FieldByName(parse.Name)
			found.add(field.Tag.Get("env"), "%s", explain(parse))
		} else {
			found.add("environment", "%v", err)
		}
	}
	return v
}

// explain says what a value should have been, without Go's words.
func explain(parse env.ParseError) string {
	switch parse.Type {
	case reflect.TypeFor[int]():
		return "is not a whole number, or is too large"
	case reflect.TypeFor[time.Duration]():
		return "is not a duration: use 8m or 1h30m, for example"
	default:
		return parse.Err.Error()
	}
}

// Level is a slog.Leveler.
type Level slog.Level

// Level implements slog.Leveler.
func (l Level) Level() slog.Level { return slog.Level(l) }

// UnmarshalText accepts debug, info, warn and error.
func (l *Level) UnmarshalText(text []byte) error {
	if !slices.Contains([]string{"debug", "info", "warn", "error"}, string(text)) {
		return fmt.Errorf("%s is not a level: use debug, info, warn or error", quote(string(text)))
	}
	return (*slog.Level)(l).UnmarshalText(text)
}

// Date is a date, with or without a time.
type Date struct{ time.Time }

// UnmarshalText accepts 2026-01-31, and a date with a time by RFC 3339.
func (d *Date) UnmarshalText(text []byte) (err error) {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if d.Time, err = time.Parse(layout, string(text)); err == nil {
			return nil
		}
	}
	return fmt.Errorf("%s is not a date: use 2026-01-31 or 2026-01-31T12:00:00Z", quote(string(text)))
}

// credential returns the one credential that is configured. IAM_TOKEN is used only if no other
// is set: people have exported it for other tools.
func (v variables) credential(found *problems) Credential {
	c := v.Credential
	c.Token = iamtoken.Secret{}
	if !v.APIKey.IsZero() {
		if err := iamtoken.CheckAPIKey(v.APIKey.Reveal()); err != nil {
			found.add("SECRETS_MANAGER_APIKEY", "%v", err)
		}
	}
	set := v.namesOfSet("SECRETS_MANAGER_APIKEY", "SECRETS_MANAGER_APIKEY_ARN", "IAM_PROFILE_NAME", "IAM_PROFILE_ID")
	const choice = "SECRETS_MANAGER_APIKEY, SECRETS_MANAGER_APIKEY_ARN, IAM_PROFILE_NAME or IAM_PROFILE_ID"
	switch token := iamtoken.TrimBearer(v.Token.Reveal()); {
	case len(set) > 1:
		found.add("bootstrap identity", "%s are set: set exactly one of %s", strings.Join(set, " and "), choice)
	case len(set) == 1:
		c.Variable = set[0]
	case token == "":
		found.add("bootstrap identity", "is required: set one of %s (or IAM_TOKEN for a run by hand)", choice)
	default:
		c.Variable, c.Token = "IAM_TOKEN", iamtoken.NewSecret(token)
		if strings.ContainsFunc(token, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("{}\"'", r) }) {
			found.add("IAM_TOKEN", "holds characters that no token has: set it to what `ibmcloud iam oauth-tokens` prints, without quotes or JSON")
		}
	}
	if v.APIKeyARN != "" && !isSecretARN(v.APIKeyARN) {
		found.add("SECRETS_MANAGER_APIKEY_ARN", "is not the ARN of an AWS Secrets Manager secret")
	}
	return c
}

// managedKey returns the secret of BOOTSTRAP_KEY_SECRET. It needs SECRETS_MANAGER_APIKEY_ARN:
// that is the only place in which the function stores a new key.
func (v variables) managedKey(found *problems, rotations []rotation.Rotation) rotation.KeyRef {
	const name = "BOOTSTRAP_KEY_SECRET"
	if v.ManagedKeySecret == "" {
		return rotation.KeyRef{}
	}
	if v.APIKeyARN == "" {
		found.add(name, "needs SECRETS_MANAGER_APIKEY_ARN, the secret in which a new key is stored: set that, or unset this")
	}
	ref := v.keyRef(found, name, v.ManagedKeySecret, "", []string{"iam_credentials"}) // no other type's key is renewed
	for _, r := range rotations {
		if !ref.IsZero() && (ref == r.APIKey || ref.ID != "" && (ref.ID == r.APIKey.ID || ref.ID == r.Token.ID)) {
			found.add(name, "is a secret of rotation %s too: the bootstrap identity needs a key of its own", r.Name)
		}
	}
	return ref
}

// eventBusRegion returns the region of the bus that EVENT_BUS_NAME gives by name or ARN. It
// rejects a long name, which could be an API key and would be sent to AWS.
func (v variables) eventBusRegion(found *problems) string {
	name, isARN := strings.CutPrefix(resourceOf(v.EventBus, "events"), "event-bus/")
	region := cmp.Or(v.AWSRegion, v.AWSDefaultRegion)
	switch {
	case v.EventBus == "":
	case isARN && madeOf(name, "._-") && len(name) <= 256:
		return strings.Split(v.EventBus, ":")[3]
	case len(v.EventBus) > maxName || !madeOf(v.EventBus, "._-"):
		found.add("EVENT_BUS_NAME", "is neither the name of an EventBridge bus, of 1 to %d letters, digits and . _ -, nor the ARN of one: arn:aws:events:REGION:ACCOUNT:event-bus/NAME", maxName)
	case !madeOf(region, "-"):
		found.add("EVENT_BUS_NAME", "is a bus's name, and AWS_REGION does not say in which region: set it, or give the bus's ARN")
	}
	return region
}

// checkLimits checks values that have no problem yet.
func (v variables) checkLimits(found *problems) {
	for _, limit := range []struct {
		name    string
		good    bool
		problem string
		value   any
	}{
		{"MIN_REMAINING", v.MinRemaining > 0 && v.MinRemaining < time.Hour,
			"%s is not a useful threshold: use more than 0 and less than 60m, the longest lifetime of a token; for example 8m", v.MinRemaining},
		{"ROTATION_INTERVAL", v.RotationInterval > 0, "%s is not an interval: use that of the rotate schedule, for example 50m", v.RotationInterval},
		{"SECRETS_MANAGER_MAX_RPS", v.MaxRPS >= 0, "%d is negative: use 0 for no limit", v.MaxRPS},
		{"CONCURRENCY", v.Concurrency >= 1, "%d leaves nothing to run: use 1 or more", v.Concurrency},
		// CloudWatch's rule for custom namespaces.
		{"METRICS_NAMESPACE", len(v.MetricsNamespace) <= 255 && madeOf(v.MetricsNamespace, "._/#:-"),
			"%s is not a CloudWatch namespace: use letters, digits and . _ / # : -", quote(v.MetricsNamespace)},
	} {
		if !limit.good && !found.names[limit.name] {
			found.add(limit.name, limit.problem, limit.value)
		}
	}
}

// problems collects problems, each under the name of the variable to correct.
type problems struct {
	found []error
	names map[string]bool
}

// maxReported limits an error to 20 problems: a list may have thousands of entries.
const maxReported = 20

func (p *problems) add(name, format string, args ...any) {
	p.found = append(p.found, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	if p.names == nil {
		p.names = map[string]bool{}
	}
	p.names[name] = true
}

func (p *problems) err() error {
	reported := p.found
	if more := len(reported) - maxReported; more > 0 {
		reported = append(slices.Clone(reported[:maxReported]), fmt.Errorf("configuration: %d more problems, not listed", more))
	}
	return errors.Join(reported...)
}

// origin checks that value is an https origin without a path, or an http one on
// loopback, and returns it without a trailing slash. The value is not repeated:
// a URL may hold a password.
func (p *problems) origin(name, value string) string {
	parsed, err := url.Parse(strings.TrimSuffix(value, "/"))
	switch {
	case value == "":
		p.add(name, "is required: the instance's endpoint, https://….secrets-manager.appdomain.cloud")
	case network.CheckHost(value) != nil:
		p.add(name, "%v", network.CheckHost(value))
	case err != nil || parsed.Hostname() == "":
		p.add(name, "is not a URL: use an origin such as https://host")
	case parsed.User != nil || parsed.Path != "" || strings.ContainsAny(value, "?#"):
		p.add(name, "is more than an origin: use only https://host, without a path, a user or a query")
	case !iamtoken.IsConfidential(parsed):
		p.add(name, "must begin with https:// (http:// is for loopback only): keys and tokens would travel in the clear")
	default:
		return parsed.String()
	}
	return ""
}

// madeOf reports whether value is not empty, and has only letters, digits and the characters
// in others.
func madeOf(value, others string) bool {
	return value != "" && !strings.ContainsFunc(value, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	})
}

func quote(value string) string { return Quote(value, 16) }

// Quote quotes a value of at most limit bytes, which must be too few for a key or a token. Of
// a longer value it shows only the length, because people paste into the wrong place.
func Quote(value string, limit int) string {
	if len(value) > limit {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}

// Fields yields the names and values of a JSON object in their order, even if a name is there
// twice. The JSON must be valid; anything but an object has no fields.
func Fields(object []byte) iter.Seq2[string, json.RawMessage] {
	return func(yield func(string, json.RawMessage) bool) {
		decoder := json.NewDecoder(bytes.NewReader(object))
		if start, _ := decoder.Token(); start != json.Delim('{') {
			return
		}
		for decoder.More() {
			token, _ := decoder.Token()
			name, _ := token.(string)
			var value json.RawMessage
			if decoder.Decode(&value) != nil || !yield(name, value) {
				return
			}
		}
	}
}
