package main

import (
	"context"
	"fmt"
	"io"
	"log/slog"
	"slices"
	"time"

	"iam-token-rotator/functions/iamtoken"
	"iam-token-rotator/functions/internal/awscloud"
	"iam-token-rotator/functions/internal/config"
	"iam-token-rotator/functions/internal/doctor"
	"iam-token-rotator/functions/internal/events"
	"iam-token-rotator/functions/internal/ibmcloud"
	"iam-token-rotator/functions/internal/keyrenewal"
	"iam-token-rotator/functions/internal/network"
	"iam-token-rotator/functions/internal/rotation"
	"iam-token-rotator/functions/report"
)

// clients connect rotations and doctor to IBM Cloud and AWS.
type clients struct {
	transport      *network.Transport
	iam            *ibmcloud.IAM
	keyStore       *awscloud.KeyStore // the bootstrap key in AWS; nil if it is elsewhere
	bootstrap      *ibmcloud.Bootstrap
	secretsManager *ibmcloud.SecretsManager
	mirrors        *awscloud.Mirrors
}

// newClients opens no connection.
func newClients(cfg config.Config) (*clients, error) {
	c := &clients{transport: network.New()}
	c.iam = ibmcloud.NewIAM(cfg.IAMURL, c.transport, nil)
	c.mirrors = awscloud.NewMirrors(c.transport)
	switch credential := cfg.Credential; credential.Variable {
	case "SECRETS_MANAGER_APIKEY":
		c.bootstrap = ibmcloud.BootstrapByKey(c.iam, ibmcloud.FixedKey(credential.APIKey))
	case "SECRETS_MANAGER_APIKEY_ARN":
		c.keyStore = awscloud.NewKeyStore(credential.APIKeyARN, c.transport)
		if cfg.ManagedKey.IsZero() {
			c.bootstrap = ibmcloud.BootstrapByKey(c.iam, c.keyStore.Key)
		} else {
			c.bootstrap = ibmcloud.BootstrapByRenewedKey(c.iam, c.keyStore.Key, c.keyStore.PreviousKey)
		}
	case "IAM_TOKEN":
		c.bootstrap = ibmcloud.BootstrapByToken(c.iam, credential.Token)
	default:
		c.bootstrap = ibmcloud.BootstrapByProfile(c.iam, ibmcloud.Profile{
			Name: credential.ProfileName, ID: credential.ProfileID, CRTokenFilename: credential.CRTokenFilename,
		})
	}
	var err error
	c.secretsManager, err = c.newSecretsManager(cfg, c.bootstrap)
	return c, err
}

func (c *clients) newSecretsManager(cfg config.Config, identity *ibmcloud.Bootstrap) (*ibmcloud.SecretsManager, error) {
	var keys []rotation.KeyRef
	for _, r := range cfg.Rotations {
		keys = append(keys, r.APIKey)
	}
	if !cfg.ManagedKey.IsZero() {
		keys = append(keys, cfg.ManagedKey)
	}
	return ibmcloud.NewSecretsManager(ibmcloud.SecretsManagerOptions{
		URL: cfg.SecretsManagerURL, Bootstrap: identity, Transport: c.transport, MaxRPS: cfg.MaxRPS, Keys: keys,
	})
}

// candidate is the bootstrap identity with a new key that is tried before it is used, and
// Secrets Manager as that identity sees it.
type candidate struct {
	*ibmcloud.Bootstrap
	*ibmcloud.SecretsManager
}

// service runs events with what the configuration describes. It lasts longer than
// invocations, so a warm process keeps its connections and bootstrap token.
type service struct {
	config  config.Config
	clients *clients
	rotator rotation.Rotator // without Keys, IAM and Log: each run has its own
	watch   keyrenewal.Watch
	renewer *keyrenewal.Renewer // nil if IBM does not renew the bootstrap key
	events  *events.Announcer   // nil if there is no bus
}

func newService(cfg config.Config, how rotation.HowToRun) (*service, error) {
	c, err := newClients(cfg)
	if err != nil {
		return nil, err
	}
	s := &service{config: cfg, clients: c, watch: keyrenewal.Watch{Keys: c.secretsManager, IAM: c.iam}, rotator: rotation.Rotator{
		Tokens:       c.secretsManager,
		Mirrors:      c.mirrors,
		Refusals:     &rotation.Refusals{},
		MinRemaining: cfg.MinRemaining,
		Interval:     cfg.RotationInterval,
		Concurrency:  attemptsAtOnce(cfg.Concurrency, cfg.MaxRPS),
		Version:      version,
		HowToRun:     how,
	}}
	if cfg.EventBus != "" {
		s.events = &events.Announcer{Bus: awscloud.NewEventBus(cfg.EventBus, cfg.EventBusRegion, c.transport)}
	}
	if !cfg.ManagedKey.IsZero() { // the renewals show when such a key expires
		s.renewer = &keyrenewal.Renewer{
			Secret: cfg.ManagedKey, Managed: c.secretsManager, Bootstrap: c.bootstrap, Store: c.keyStore,
			Candidate: func(key iamtoken.Secret) (keyrenewal.Candidate, error) {
				identity := ibmcloud.BootstrapByKey(ibmcloud.NewIAM(cfg.IAMURL, c.transport, nil), ibmcloud.FixedKey(key))
				secretsManager, err := c.newSecretsManager(cfg, identity)
				return candidate{identity, secretsManager}, err
			},
		}
		return s, nil
	}
	s.watch.BootstrapExpiresAt = cfg.BootstrapExpiresAt.Time
	if cfg.Credential.HasKey() {
		s.watch.Bootstrap = c.bootstrap
	}
	return s, nil
}

// watchAfter is the age from which on a Lambda process asks IAM when keys expire. No token needs that,
// so the run that a process is started for does not wait for it.
const watchAfter = 15 * time.Minute

// connectEarly opens the connections that the first run of a Lambda process needs, and no others.
func (s *service) connectEarly() {
	s.watch.Since = time.Now().Add(watchAfter)
	s.clients.transport.Preconnect(s.config.IAMURL, s.config.SecretsManagerURL)
}

// attemptsAtOnce is how many attempts may run in parallel under the limit of requests a
// second. An attempt sends three requests, and is cut off after 10 seconds. If there were more
// attempts than the limit serves in half of that time, all would queue and none would finish.
func attemptsAtOnce(concurrency, maxRPS int) int {
	if maxRPS == 0 {
		return concurrency
	}
	return min(concurrency, max(1, maxRPS*5/3))
}

// run does what the event asks. The error is about the event; what fails in a
// rotation is in the report.
func (s *service) run(ctx context.Context, e event, log *slog.Logger) (report.Report, error) {
	rotations, err := choose(s.config.Rotations, e.rotations)
	if err != nil {
		return report.Report{}, err
	}
	_, budget := rotation.Budget(ctx)
	within, cancel := context.WithTimeout(ctx, budget) // for all but the rotator, which keeps to it by itself
	defer cancel()
	keys := s.watch.Begin(within)
	rotator := s.rotator
	rotator.Keys, rotator.IAM, rotator.Log = keys, keys, log
	ran := rotator.Run(ctx, rotation.Request{Mode: e.mode, Force: e.force, RunID: e.runID}, rotations)
	ran.InvokedBy = e.invokedBy
	if s.events != nil {
		s.events.Announce(ctx, &ran)
	}
	if s.renewer != nil && s.renewer.Due(e.mode) {
		good := slices.IndexFunc(ran.Results, func(result report.Result) bool { return result.Outcome != report.Failed })
		renewal := s.renewer.Run(within, rotations[max(0, good)].Token) // a token secret that works, if one does
		ran.KeyRenewal = &renewal
	}
	keys.End(rotations, ran.Results, ran.KeyRenewal)
	logResults(log, ran)
	return ran, nil
}

// logResults writes a line for each rotation.
func logResults(log *slog.Logger, ran report.Report) {
	for _, result := range ran.Results {
		level := slog.LevelInfo
		if result.Outcome == report.Failed {
			level = slog.LevelError
		}
		log.Log(context.Background(), level, "rotation", "run_id", ran.RunID, "mode", ran.Mode,
			"invoked_by", ran.InvokedBy, "force", ran.Force, "result", result)
	}
	if renewal := ran.KeyRenewal; renewal != nil {
		log.Info("key renewal", "run_id", ran.RunID, "result", renewal)
	}
}

func newLogger(w io.Writer, level slog.Leveler) *slog.Logger {
	return slog.New(slog.NewJSONHandler(w, &slog.HandlerOptions{Level: level}))
}

// diagnose checks what the named rotations rely on, or all if none is named. It makes new clients:
// the connections and the bootstrap token of a warm function would hide what has broken since.
func diagnose(ctx context.Context, cfg config.Config, named []string, how rotation.HowToRun) (report.Diagnosis, error) {
	rotations, err := choose(cfg.Rotations, named)
	if err != nil {
		return report.Diagnosis{}, err
	}
	c, err := newClients(cfg)
	if err != nil {
		return report.Diagnosis{}, err
	}
	defer c.transport.CloseIdleConnections()
	d := doctor.Doctor{
		Configuration:     fmt.Sprintf("valid: %s, the bootstrap identity by %s", report.Count(len(cfg.Rotations), "rotation"), cfg.Credential.Variable),
		IAMURL:            cfg.IAMURL,
		SecretsManagerURL: cfg.SecretsManagerURL,
		Bootstrap: doctor.BootstrapIdentity{
			Variable: cfg.Credential.Variable, Identity: c.bootstrap, ExpiresAt: cfg.BootstrapExpiresAt.Time,
			HasKey: cfg.Credential.HasKey(), NoIAM: !cfg.Credential.Token.IsZero(),
		},
		ManagedKey:     cfg.ManagedKey,
		IAM:            c.iam,
		SecretsManager: c.secretsManager,
		Mirrors:        c.mirrors,
		HowToRun:       how,
		MinRemaining:   cfg.MinRemaining,
		Interval:       cfg.RotationInterval,
		Concurrency:    attemptsAtOnce(cfg.Concurrency, cfg.MaxRPS),
	}
	if c.keyStore != nil {
		d.Bootstrap.ReadKey = c.keyStore.Key
	}
	return d.Run(ctx, rotations), nil
}
