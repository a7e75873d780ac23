package main

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"log/slog"
	"net/http"

	"iam-token-rotator/functions/internal/awscloud"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// service runs events with what the configuration describes. It outlives
// invocations, so a warm process keeps its connections and bootstrap token.
type service struct {
	rotator   rotation.Rotator
	rotations []rotation.Rotation
}

func newService(cfg config.Config) (*service, error) {
	transport := ibmcloud.NewTransport()
	transport.Preconnect(cfg.IAMURL, cfg.SecretsManagerURL)
	iam := ibmcloud.NewIAM(cfg.IAMURL, transport, nil)
	secretsManager, err := ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: cfg.SecretsManagerURL, Bootstrap: newBootstrap(cfg.Bootstrap, iam, transport), Transport: transport, MaxRPS: cfg.MaxRPS,
	})
	if err != nil {
		return nil, err
	}
	return &service{
		rotations: cfg.Rotations,
		rotator: rotation.Rotator{
			Keys:               secretsManager,
			IAM:                iam,
			Tokens:             secretsManager,
			Mirrors:            awscloud.NewMirrors(transport),
			MinRemaining:       cfg.MinRemaining,
			Interval:           cfg.RotationInterval,
			Concurrency:        attemptsAtOnce(cfg.Concurrency, cfg.MaxRPS),
			BootstrapExpiresAt: cfg.BootstrapExpiresAt,
			Version:            version,
		},
	}, nil
}

// attemptsAtOnce is how many attempts may run side by side under the politeness
// limit. An attempt makes three requests in the 10 seconds it may take; with more
// of them than the limit serves in half that time, all would queue until they
// are cut off and none would finish.
func attemptsAtOnce(concurrency, maxRPS int) int {
	if maxRPS == 0 {
		return concurrency
	}
	return min(concurrency, max(1, maxRPS*5/3))
}

// newBootstrap picks the way in that is configured; config sees to it that one is.
func newBootstrap(cfg config.Bootstrap, iam *ibmcloud.IAM, transport http.RoundTripper) *ibmcloud.Bootstrap {
	switch {
	case !cfg.APIKey.IsZero():
		return ibmcloud.BootstrapByKey(iam, ibmcloud.FixedKey(cfg.APIKey))
	case cfg.APIKeyARN != "":
		return ibmcloud.BootstrapByKey(iam, awscloud.BootstrapKey(cfg.APIKeyARN, transport))
	case !cfg.Token.IsZero():
		return ibmcloud.BootstrapByToken(cfg.Token, nil)
	default:
		return ibmcloud.BootstrapByProfile(iam, ibmcloud.Profile{
			Name: cfg.ProfileName, ID: cfg.ProfileID, CRTokenFilename: cfg.CRTokenFilename,
		})
	}
}

// run does what the event asks. The error is about the event; what fails in a
// rotation is in the report.
func (s *service) run(ctx context.Context, e event, log *slog.Logger) (report.Report, error) {
	rotations, err := choose(s.rotations, e.rotations)
	if err != nil {
		return report.Report{}, err
	}
	rotator := s.rotator
	rotator.Log = log
	return rotator.Run(ctx, rotation.Request{Mode: e.mode, Force: e.force, RunID: e.runID}, rotations), nil
}

func names(rotations []rotation.Rotation) []string {
	list := make([]string, len(rotations))
	for i, r := range rotations {
		list[i] = r.Name
	}
	return list
}

func newLogger(w io.Writer, level slog.Level) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// logResults writes a line for each rotation.
func logResults(log *slog.Logger, ran report.Report) {
	for _, result := range ran.Results {
		level := slog.LevelInfo
		if result.Outcome == report.Failed {
			level = slog.LevelError
		}
		log.Log(context.Background(), level, "rotation", "run_id", ran.RunID, "mode", ran.Mode, "result", result)
	}
}

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
		Configuration: fmt.Sprintf("valid: %s, the bootstrap identity by %s", report.Count(len(cfg.Rotations), "rotation"), wayIn(cfg.Bootstrap)),
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
func diagnose(ctx context.Context, cfg config.Config, named []string) (report.Diagnosis, error) {
	rotations, err := choose(cfg.Rotations, named)
	if err != nil {
		return report.Diagnosis{}, err
	}
	d, err := newDoctor(cfg)
	if err != nil {
		return report.Diagnosis{}, err
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
	var diagnosis report.Diagnosis
	if err == nil {
		diagnosis, err = diagnose(ctx, f.config, named)
	}
	if err != nil {
		diagnosis = doctor.Misconfigured(err)
	}
	f.report.Info("diagnosis", "request_id", requestID, "diagnosis", diagnosis)
	return json.Marshal(diagnosis)
}
