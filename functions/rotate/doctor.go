package main

import (
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"iam-token-rotator/functions/internal/awscloud"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
)

// modeDoctor is no mode of a rotation: it looks at what rotations rely on.
const modeDoctor rotation.Mode = "doctor"

// newDoctor builds clients of its own: a warm function's connections and its
// bootstrap token would hide what has broken since they were made.
func newDoctor(cfg config.Config) (*doctor.Doctor, error) {
	transport := ibmcloud.NewTransport()
	iam := ibmcloud.NewIAM(cfg.IAMURL, transport, nil)
	bootstrap := newBootstrap(cfg.Bootstrap, iam, transport)
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: cfg.SecretsManagerURL, Bootstrap: bootstrap, Transport: transport, MaxRPS: cfg.MaxRPS,
	})
	if err != nil {
		return nil, err
	}
	return &doctor.Doctor{
		Configuration: fmt.Sprintf("valid: %s, the bootstrap identity by %s", count(len(cfg.Rotations), "rotation"), wayIn(cfg.Bootstrap)),
		IAMHost:       doctor.Host{Name: "iam", Variable: "IAM_URL", Origin: cfg.IAMURL, Probe: "/identity/keys"},
		InstanceHost: doctor.Host{Name: "secrets-manager", Variable: "SECRETS_MANAGER_URL", Origin: cfg.SecretsManagerURL,
			Probe: "/", Instance: true},
		HTTP:           transport,
		Bootstrap:      describeBootstrap(cfg, bootstrap, transport),
		IAM:            iam,
		SecretsManager: secretsManager,
		Mirrors:        awscloud.NewMirrors(transport),
		MinRemaining:   cfg.MinRemaining,
		Interval:       cfg.RotationInterval,
		Concurrency:    attemptsAtOnce(cfg.Concurrency, cfg.MaxRPS),
	}, nil
}

func describeBootstrap(cfg config.Config, identity *ibmcloud.Bootstrap, transport http.RoundTripper) doctor.Bootstrap {
	described := doctor.Bootstrap{
		Variable: wayIn(cfg.Bootstrap), Identity: identity, ExpiresAt: cfg.BootstrapExpiresAt,
		HasKey: !cfg.Bootstrap.APIKey.IsZero() || cfg.Bootstrap.APIKeyARN != "",
		NoIAM:  !cfg.Bootstrap.Token.IsZero(),
	}
	if cfg.Bootstrap.APIKeyARN != "" {
		read := awscloud.BootstrapKey(cfg.Bootstrap.APIKeyARN, transport)
		described.ReadKey = func(ctx context.Context) error {
			_, err := read(ctx)
			return err
		}
	}
	return described
}

// wayIn names the variable that says how Secrets Manager is opened.
func wayIn(b config.Bootstrap) string {
	switch {
	case !b.APIKey.IsZero():
		return "SECRETS_MANAGER_APIKEY"
	case b.APIKeyARN != "":
		return "SECRETS_MANAGER_APIKEY_ARN"
	case !b.Token.IsZero():
		return "IAM_TOKEN"
	case b.ProfileName != "":
		return "IAM_PROFILE_NAME"
	default:
		return "IAM_PROFILE_ID"
	}
}

// diagnose examines the rotations that are named, all if none is.
func diagnose(ctx context.Context, cfg config.Config, named []string) (doctor.Diagnosis, error) {
	rotations, err := choose(cfg.Rotations, named)
	if err != nil {
		return doctor.Diagnosis{}, err
	}
	d, err := newDoctor(cfg)
	if err != nil {
		return doctor.Diagnosis{}, err
	}
	return d.Run(ctx, rotations), nil
}

// asksForDoctor reports whether an event is {"mode":"doctor"}, and for which
// rotations.
func asksForDoctor(payload []byte) (named []string, ok bool) {
	e, err := decodeEvent(payload)
	return e.rotations, err == nil && e.mode == modeDoctor
}

// examine is the function's answer to {"mode":"doctor"}. A person asked and reads
// the answer, so whatever is wrong, a faulty configuration too, is in the response
// and in the log: an invocation that fails, or a metric that counts it, would raise
// the alarms that are about rotations.
func (f *function) examine(ctx context.Context, named []string, requestID string) ([]byte, error) {
	err := f.fault
	var diagnosis doctor.Diagnosis
	if err == nil {
		diagnosis, err = diagnose(ctx, f.config, named)
	}
	if err != nil {
		diagnosis = doctor.Misconfigured(err)
	}
	f.report.Info("diagnosis", "request_id", requestID, "diagnosis", diagnosis)
	return json.Marshal(diagnosis)
}
