// Package config turns environment variables into values. It checks all of them
// before a connection is opened, and reports every problem at once.
package config

import (
	"cmp"
	"errors"
	"fmt"
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
	SecretsManagerURL string // origin without a path
	IAMURL            string // origin without a path
	Credential        Credential
	ManagedKey        rotation.KeyRef     // the secret that IBM renews the bootstrap key in; zero if there is none
	Rotations         []rotation.Rotation // at least one; names and token secrets are unique

	Limits

	EventBus       string // name or ARN of an EventBridge bus; "" for no events
	EventBusRegion string

	LogLevel           slog.Level
	BootstrapExpiresAt time.Time // zero when not known
}

// Limits are settings that count as they are.
type Limits struct {
	MinRemaining     time.Duration `env:"MIN_REMAINING" envDefault:"8m"`
	RotationInterval time.Duration `env:"ROTATION_INTERVAL" envDefault:"50m"`
	MaxRPS           int           `env:"SECRETS_MANAGER_MAX_RPS" envDefault:"15"` // 0 means no limit
	Concurrency      int           `env:"CONCURRENCY" envDefault:"16"`
	MetricsNamespace string        `env:"METRICS_NAMESPACE" envDefault:"IAMTokenRotator"`
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

// ReadFile reads a file whole, as os.ReadFile does.
type ReadFile func(name string) ([]byte, error)

// Load reads the configuration from environ, in the form of os.Environ. The error
// joins the problems found, the first of very many; none repeats a key or token.
// The Config returned with an error holds what could be read: a host needs to know how to log.
func Load(environ []string, readFile ReadFile) (Config, error) {
	var found problems
	v := parseVariables(environ, &found)
	cfg := Config{
		SecretsManagerURL:  found.origin("SECRETS_MANAGER_URL", v.SecretsManagerURL),
		IAMURL:             found.origin("IAM_URL", v.IAMURL),
		Credential:         v.credential(&found),
		Rotations:          v.rotations(&found, readFile),
		Limits:             v.Limits,
		LogLevel:           slog.Level(v.LogLevel),
		BootstrapExpiresAt: time.Time(v.BootstrapExpiresAt),
	}
	cfg.ManagedKey = v.managedKey(&found, cfg.Rotations)
	cfg.EventBus, cfg.EventBusRegion = v.eventBus(&found)
	v.checkLimits(&found)
	for _, setting := range network.CheckEnvironment(environ) {
		found.add(setting.Name, "%s", setting.Problem)
	}
	if found.names["METRICS_NAMESPACE"] {
		cfg.MetricsNamespace = "IAMTokenRotator" // CloudWatch would drop the very metric that counts this failure
	}
	return cfg, found.err()
}

// variables are the environment variables that count; an empty one counts as
// unset, and white space around a value does not count.
type variables struct {
	SecretsManagerURL string `env:"SECRETS_MANAGER_URL"`
	IAMURL            string `env:"IAM_URL" envDefault:"https://iam.cloud.ibm.com"`

	Credential
	ManagedKey string `env:"BOOTSTRAP_KEY_SECRET"`

	APIKeySecret  string          `env:"API_KEY_SECRET"`
	TokenSecret   string          `env:"TOKEN_SECRET"`
	ExpectAccount string          `env:"EXPECT_ACCOUNT"`
	ExpectIAMID   string          `env:"EXPECT_IAM_ID"`
	TokenFormat   iamtoken.Format `env:"TOKEN_FORMAT" envDefault:"raw"`
	Rotations     string          `env:"ROTATIONS"`
	RotationsFile string          `env:"ROTATIONS_FILE"`

	Limits
	EventBusName     string `env:"EVENT_BUS_NAME"`
	AWSRegion        string `env:"AWS_REGION"`
	AWSDefaultRegion string `env:"AWS_DEFAULT_REGION"`

	LogLevel           logLevel `env:"LOG_LEVEL" envDefault:"info"`
	BootstrapExpiresAt date     `env:"BOOTSTRAP_EXPIRES_AT"`
}

func parseVariables(environ []string, found *problems) variables {
	set := env.ToMap(environ)
	for name, value := range set {
		if set[name] = strings.TrimSpace(value); set[name] == "" {
			delete(set, name)
		}
	}
	var v variables
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

// explain says in plain words what a value should have been.
func explain(parse env.ParseError) string {
	switch parse.Type {
	case reflect.TypeFor[int]():
		return "is not a whole number, or is too large"
	case reflect.TypeFor[time.Duration]():
		return "is not a duration: use 8m or 1h30m, say"
	default:
		return parse.Err.Error()
	}
}

// logLevel accepts debug, info, warn and error.
type logLevel slog.Level

func (l *logLevel) UnmarshalText(text []byte) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[string(text)]
	if !ok {
		return fmt.Errorf("%s is not a level: use debug, info, warn or error", quote(string(text)))
	}
	*l = logLevel(level)
	return nil
}

// date accepts a day or a moment of RFC 3339.
type date time.Time

func (d *date) UnmarshalText(text []byte) error {
	for _, layout := range []string{time.RFC3339, time.DateOnly} {
		if parsed, err := time.Parse(layout, string(text)); err == nil {
			*d = date(parsed)
			return nil
		}
	}
	return fmt.Errorf("%s is not a date: use 2026-01-31 or 2026-01-31T12:00:00Z", quote(string(text)))
}

// credential returns the one credential that is configured. IAM_TOKEN counts only
// when no other is set: people have it exported for other tools.
func (v variables) credential(found *problems) Credential {
	c := v.Credential
	c.Token = iamtoken.Secret{}
	if !v.APIKey.IsZero() {
		if err := iamtoken.CheckAPIKey(v.APIKey.Reveal()); err != nil {
			found.add("SECRETS_MANAGER_APIKEY", "%v", err)
		}
	}
	set := namesOfSet([2]string{"SECRETS_MANAGER_APIKEY", v.APIKey.Reveal()}, [2]string{"SECRETS_MANAGER_APIKEY_ARN", v.APIKeyARN},
		[2]string{"IAM_PROFILE_NAME", v.ProfileName}, [2]string{"IAM_PROFILE_ID", v.ProfileID})
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

// managedKey is the secret of BOOTSTRAP_KEY_SECRET. A new key is stored in the AWS secret
// that the function starts from, and nowhere else.
func (v variables) managedKey(found *problems, rotations []rotation.Rotation) rotation.KeyRef {
	const name = "BOOTSTRAP_KEY_SECRET"
	if v.ManagedKey == "" {
		return rotation.KeyRef{}
	}
	if v.APIKeyARN == "" {
		found.add(name, "goes with SECRETS_MANAGER_APIKEY_ARN alone: there a new key is stored; unset it, or set that")
	}
	ref := v.keyRef(found, name, v.ManagedKey, "", []string{"iam_credentials"}) // no other type's key is renewed
	for _, r := range rotations {
		if !ref.IsZero() && (ref == r.APIKey || ref.ID != "" && (ref.ID == r.APIKey.ID || ref.ID == r.Token.ID)) {
			found.add(name, "is a secret of rotation %s too: the bootstrap identity needs a key of its own", r.Name)
		}
	}
	return ref
}

// eventBus is the name or the ARN of EVENT_BUS_NAME, and the bus's region. A name is
// shorter than an API key, which would be sent to AWS.
func (v variables) eventBus(found *problems) (bus, region string) {
	bus = v.EventBusName
	name, isARN := strings.CutPrefix(resourceOf(bus, "events"), "event-bus/")
	region = cmp.Or(v.AWSRegion, v.AWSDefaultRegion)
	switch {
	case bus == "":
	case isARN && madeOf(name, "._-") && len(name) <= 256:
		region = strings.Split(bus, ":")[3]
	case len(bus) > maxName || !madeOf(bus, "._-"):
		found.add("EVENT_BUS_NAME", "is neither the name of an EventBridge bus, of 1 to %d letters, digits and . _ -, nor the ARN of one: arn:aws:events:REGION:ACCOUNT:event-bus/NAME", maxName)
	case !madeOf(region, "-"):
		found.add("EVENT_BUS_NAME", "is a bus's name, and AWS_REGION does not say in which region: set it, or give the bus's ARN")
	}
	return bus, region
}

// namesOfSet returns the names of the variables, given with their values, that are set.
func namesOfSet(variables ...[2]string) (names []string) {
	for _, variable := range variables {
		if variable[1] != "" {
			names = append(names, variable[0])
		}
	}
	return names
}

func (v variables) checkLimits(found *problems) {
	if v.MinRemaining <= 0 || v.MinRemaining >= time.Hour {
		found.addFirst("MIN_REMAINING", "%s is not a useful threshold: use more than 0 and less than 60m, the longest lifetime of a token; 8m, say", v.MinRemaining)
	}
	if v.RotationInterval <= 0 {
		found.addFirst("ROTATION_INTERVAL", "%s is not an interval: use that of the rotate schedule, 50m say", v.RotationInterval)
	}
	if v.MaxRPS < 0 {
		found.addFirst("SECRETS_MANAGER_MAX_RPS", "%d is negative: use 0 for no limit", v.MaxRPS)
	}
	if v.Concurrency < 1 {
		found.addFirst("CONCURRENCY", "%d leaves nothing to run: use 1 or more", v.Concurrency)
	}
	// CloudWatch's rule for custom namespaces.
	if len(v.MetricsNamespace) > 255 || !madeOf(v.MetricsNamespace, "._/#:-") {
		found.addFirst("METRICS_NAMESPACE", "%s is no CloudWatch namespace: use letters, digits and . _ / # : -", quote(v.MetricsNamespace))
	}
}

// problems collects what is wrong, each under the name of the variable to correct.
type problems struct {
	found []error
	names map[string]bool
}

// maxReported bounds the text of an error: a list may have thousands of entries.
const maxReported = 20

func (p *problems) add(name, format string, args ...any) {
	p.found = append(p.found, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	if p.names == nil {
		p.names = map[string]bool{}
	}
	p.names[name] = true
}

// addFirst adds a problem unless name has one: for a value that cannot be read,
// that is enough.
func (p *problems) addFirst(name, format string, args ...any) {
	if !p.names[name] {
		p.add(name, format, args...)
	}
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
		p.add(name, "is more than an origin: use https://host alone, without a path, a user or a query")
	case !iamtoken.IsConfidential(parsed):
		p.add(name, "must begin with https:// (http:// is for loopback only): keys and tokens would travel in the clear")
	default:
		return parsed.String()
	}
	return ""
}

// madeOf reports whether value has one character at least, and letters, digits and
// the others alone.
func madeOf(value, others string) bool {
	return value != "" && !strings.ContainsFunc(value, func(r rune) bool {
		return (r < '0' || r > '9') && (r < 'A' || r > 'Z') && (r < 'a' || r > 'z') && !strings.ContainsRune(others, r)
	})
}

// quote quotes a value that is too short to be a key or a token, and shows the
// length of any other: people paste into the wrong place.
func quote(value string) string {
	if len(value) > 16 {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}
