// Package config turns environment variables into values. It checks all of them
// before anything touches the network and reports every fault at once.
package config

import (
	"log/slog"
	"time"

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
