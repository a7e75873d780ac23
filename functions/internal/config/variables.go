package config

import (
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"regexp"
	"strings"
	"time"

	"github.com/caarlos0/env/v11"

	"iam-token-rotator/functions/iamtoken"
)

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
