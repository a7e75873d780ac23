// Package config turns environment variables into values. It checks all of them
// before anything touches the network and reports every fault at once.
package config

import (
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"net/url"
	"reflect"
	"regexp"
	"strconv"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/rotation"
)

// Config is a valid configuration.
type Config struct {
	SecretsManagerURL string // origin without a path
	IAMURL            string // origin without a path
	Bootstrap         Bootstrap
	Rotations         []rotation.Rotation // at least one; names and token secrets are unique

	MinRemaining     time.Duration
	RotationInterval time.Duration
	MaxRPS           int // 0 means no limit
	Concurrency      int

	MetricsNamespace   string
	LogLevel           slog.Level
	BootstrapExpiresAt time.Time // zero when not known
}

// Bootstrap is how Secrets Manager is opened: exactly one of the fields APIKey,
// APIKeyARN, ProfileName, ProfileID and Token is set.
type Bootstrap struct {
	APIKey          iamtoken.Secret
	APIKeyARN       string // of an AWS Secrets Manager secret that holds the key
	ProfileName     string
	ProfileID       string
	CRTokenFilename string // empty: the default of the compute resource
	Token           iamtoken.Secret
}

// ReadFile reads a file whole, as os.ReadFile does.
type ReadFile func(name string) ([]byte, error)

// Load reads the configuration from environ, in the form of os.Environ. The
// error joins every fault found; no fault repeats a key or token. The Config
// beside an error holds what could be read: a host needs to know how to log.
func Load(environ []string, readFile ReadFile) (Config, error) {
	var faults faults
	raw := parseVariables(environ, &faults)
	cfg := Config{
		SecretsManagerURL: faults.origin("SECRETS_MANAGER_URL", raw.SecretsManagerURL),
		IAMURL:            faults.origin("IAM_URL", raw.IAMURL),
		Bootstrap:         raw.bootstrap(&faults),
		Rotations:         raw.rotations(&faults, readFile),
		MinRemaining:      raw.MinRemaining,
		RotationInterval:  raw.RotationInterval,
		MaxRPS:            raw.MaxRPS,
		Concurrency:       raw.Concurrency,
		MetricsNamespace:  raw.MetricsNamespace,
		LogLevel:          slog.Level(raw.LogLevel),

		BootstrapExpiresAt: time.Time(raw.BootstrapExpiresAt),
	}
	raw.checkLimits(&faults)
	if faults.names["METRICS_NAMESPACE"] {
		cfg.MetricsNamespace = "IAMTokenRotator" // CloudWatch would drop the very metric that tells of the fault
	}
	return cfg, faults.err()
}

// secretARNShape is the ARN of an AWS Secrets Manager secret.
var secretARNShape = regexp.MustCompile(`^arn:aws[a-z-]*:secretsmanager:[a-z0-9-]+:\d{12}:secret:\S+$`)

// bootstrap picks the one way in that is configured. IAM_TOKEN counts only when
// no other is: people have it exported for other tools.
func (v variables) bootstrap(faults *faults) Bootstrap {
	var set []string
	for name, value := range map[string]string{
		"SECRETS_MANAGER_APIKEY": v.APIKey.Reveal(), "SECRETS_MANAGER_APIKEY_ARN": v.APIKeyARN,
		"IAM_PROFILE_NAME": v.ProfileName, "IAM_PROFILE_ID": v.ProfileID,
	} {
		if value != "" {
			set = append(set, name)
		}
	}
	const ways = "SECRETS_MANAGER_APIKEY, SECRETS_MANAGER_APIKEY_ARN, IAM_PROFILE_NAME or IAM_PROFILE_ID"
	switch {
	case len(set) > 1:
		faults.add("bootstrap identity", "%d of %s are set: set exactly one", len(set), ways)
	case len(set) == 0 && iamtoken.TrimBearer(v.Token.Reveal()) == "":
		faults.add("bootstrap identity", "is required: set one of %s (or IAM_TOKEN for a run by hand)", ways)
	case len(set) == 0:
		return Bootstrap{Token: oneWord(faults, "IAM_TOKEN", iamtoken.TrimBearer(v.Token.Reveal()))}
	}
	if v.APIKeyARN != "" && !secretARNShape.MatchString(v.APIKeyARN) {
		faults.add("SECRETS_MANAGER_APIKEY_ARN", "is not the ARN of an AWS Secrets Manager secret")
	}
	return Bootstrap{
		APIKey:          oneWord(faults, "SECRETS_MANAGER_APIKEY", v.APIKey.Reveal()),
		APIKeyARN:       v.APIKeyARN,
		ProfileName:     v.ProfileName,
		ProfileID:       v.ProfileID,
		CRTokenFilename: v.CRTokenFilename,
	}
}

// oneWord wraps value, which must be printable and without white space, braces
// and quotes.
func oneWord(faults *faults, name, value string) iamtoken.Secret {
	if strings.ContainsFunc(value, func(r rune) bool { return r <= ' ' || r > '~' || strings.ContainsRune("{}\"'", r) }) {
		faults.add(name, "holds characters that no key or token has: set it to the bare value, without quotes or JSON")
	}
	return iamtoken.NewSecret(value)
}

// faults collects what is wrong, each under the name of the variable to mend.
type faults struct {
	found []error
	names map[string]bool
}

func (f *faults) add(name, format string, args ...any) {
	f.found = append(f.found, fmt.Errorf("%s: "+format, append([]any{name}, args...)...))
	if f.names == nil {
		f.names = map[string]bool{}
	}
	f.names[name] = true
}

// addFirst adds a fault unless name has one: a value that could not be read need
// not be told to be out of range as well.
func (f *faults) addFirst(name, format string, args ...any) {
	if !f.names[name] {
		f.add(name, format, args...)
	}
}

func (f *faults) err() error { return errors.Join(f.found...) }

// short quotes a value that is too short to be a key or a token, and tells the
// length of any other: people paste into the wrong place.
func short(value string) string {
	if len(value) > 16 {
		return fmt.Sprintf("(%d characters, not repeated here)", len(value))
	}
	return strconv.Quote(value)
}

// reason is why a file could not be read, without its name.
func reason(err error) error {
	var path *fs.PathError
	if errors.As(err, &path) {
		return path.Err
	}
	return err
}

// origin checks that value is an https origin without a path, or an http one on
// loopback, and returns it without a trailing slash. The value is not repeated:
// a URL may hold a password.
func (f *faults) origin(name, value string) string {
	parsed, err := url.Parse(strings.TrimSuffix(value, "/"))
	switch {
	case value == "":
		f.add(name, "is required: the instance's endpoint, https://….secrets-manager.appdomain.cloud")
	case err != nil || parsed.Hostname() == "":
		f.add(name, "is not a URL: use an origin such as https://host")
	case parsed.User != nil || parsed.Path != "" || strings.ContainsAny(value, "?#"):
		f.add(name, "is more than an origin: use https://host alone, without a path, a user or a query")
	case parsed.Scheme == "https", parsed.Scheme == "http" && isLoopback(parsed.Hostname()):
		return parsed.String()
	default:
		f.add(name, "must begin with https:// (http:// is for loopback only): keys and tokens would travel in the clear")
	}
	return ""
}

func isLoopback(host string) bool {
	if host == "localhost" {
		return true
	}
	ip := net.ParseIP(host)
	return ip != nil && ip.IsLoopback()
}

// variables are the environment variables that count; an empty one is as good as
// unset, and white space around a value does not count.
type variables struct {
	SecretsManagerURL string `env:"SECRETS_MANAGER_URL"`
	IAMURL            string `env:"IAM_URL" envDefault:"https://iam.cloud.ibm.com"`

	APIKey          iamtoken.Secret `env:"SECRETS_MANAGER_APIKEY"`
	APIKeyARN       string          `env:"SECRETS_MANAGER_APIKEY_ARN"`
	ProfileName     string          `env:"IAM_PROFILE_NAME"`
	ProfileID       string          `env:"IAM_PROFILE_ID"`
	CRTokenFilename string          `env:"CR_TOKEN_FILENAME"`
	Token           iamtoken.Secret `env:"IAM_TOKEN"`

	APIKeySecret  string          `env:"API_KEY_SECRET"`
	TokenSecret   string          `env:"TOKEN_SECRET"`
	TokenFormat   iamtoken.Format `env:"TOKEN_FORMAT" envDefault:"raw"`
	Rotations     string          `env:"ROTATIONS"`
	RotationsFile string          `env:"ROTATIONS_FILE"`

	MinRemaining     time.Duration `env:"MIN_REMAINING" envDefault:"8m"`
	RotationInterval time.Duration `env:"ROTATION_INTERVAL" envDefault:"50m"`
	MaxRPS           int           `env:"SECRETS_MANAGER_MAX_RPS" envDefault:"20"`
	Concurrency      int           `env:"CONCURRENCY" envDefault:"16"`

	MetricsNamespace   string   `env:"METRICS_NAMESPACE" envDefault:"IAMTokenRotator"`
	LogLevel           logLevel `env:"LOG_LEVEL" envDefault:"info"`
	BootstrapExpiresAt date     `env:"BOOTSTRAP_EXPIRES_AT"`
}

func parseVariables(environ []string, faults *faults) variables {
	var v variables
	set := env.ToMap(environ)
	for name, value := range set {
		if set[name] = strings.TrimSpace(value); set[name] == "" {
			delete(set, name)
		}
	}
	err := env.ParseWithOptions(&v, env.Options{Environment: set})
	var all env.AggregateError
	if !errors.As(err, &all) {
		return v
	}
	for _, err := range all.Errors {
		var parse env.ParseError
		if errors.As(err, &parse) {
			faults.add(variableOf(parse.Name), "%s", explain(parse))
		} else {
			faults.add("environment", "%v", err)
		}
	}
	return v
}

// explain says in plain words what a value should have been.
func explain(parse env.ParseError) string {
	switch parse.Type {
	case reflect.TypeFor[int]():
		return "is not a whole number"
	case reflect.TypeFor[time.Duration]():
		return "is not a duration: use 8m or 1h30m, say"
	default:
		return parse.Err.Error()
	}
}

// variableOf is the variable that fills a field.
func variableOf(field string) string {
	structField, _ := reflect.TypeFor[variables]().FieldByName(field)
	return structField.Tag.Get("env")
}

// metricsNamespaceShape is CloudWatch's rule for custom namespaces, but for the
// length of 255 at most.
var metricsNamespaceShape = regexp.MustCompile(`^[A-Za-z0-9._/#:-]+$`)

func (v variables) checkLimits(faults *faults) {
	if v.MinRemaining <= 0 || v.MinRemaining >= time.Hour {
		faults.addFirst("MIN_REMAINING", "%s is not a useful threshold: more than 0 and less than the 60m a token lives at most, 8m say", v.MinRemaining)
	}
	if v.RotationInterval <= 0 {
		faults.addFirst("ROTATION_INTERVAL", "%s is not an interval: use that of the rotate schedule, 50m say", v.RotationInterval)
	}
	if v.MaxRPS < 0 {
		faults.addFirst("SECRETS_MANAGER_MAX_RPS", "%d is negative: use 0 for no limit", v.MaxRPS)
	}
	if v.Concurrency < 1 {
		faults.addFirst("CONCURRENCY", "%d leaves nothing to run: use 1 or more", v.Concurrency)
	}
	if len(v.MetricsNamespace) > 255 || !metricsNamespaceShape.MatchString(v.MetricsNamespace) {
		faults.addFirst("METRICS_NAMESPACE", "%s is no CloudWatch namespace: use letters, digits and . _ / # : -", short(v.MetricsNamespace))
	}
}

// logLevel accepts debug, info, warn and error.
type logLevel slog.Level

func (l *logLevel) UnmarshalText(text []byte) error {
	levels := map[string]slog.Level{"debug": slog.LevelDebug, "info": slog.LevelInfo, "warn": slog.LevelWarn, "error": slog.LevelError}
	level, ok := levels[string(text)]
	if !ok {
		return fmt.Errorf("%s is not a level: use debug, info, warn or error", short(string(text)))
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
	return fmt.Errorf("%s is not a date: use 2026-01-31 or 2026-01-31T12:00:00Z", short(string(text)))
}
