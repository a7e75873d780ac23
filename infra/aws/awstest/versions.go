package awstest

import (
	"bytes"
	"encoding/json"
	"io"
	"maps"
	"net/http"
	"sync"
	"time"
)

// versions are the young ones of moto's secrets, which AWS would not remove: a secret has 100 versions, and none younger
// than a day is removed to make room. moto has no such quota, and lets a secret be written that is being deleted.
//
// https://docs.aws.amazon.com/secretsmanager/latest/userguide/reference_limits.html
type versions struct {
	mu    sync.Mutex
	ahead time.Duration                   // of this machine's clock
	made  map[string]map[string]time.Time // by the secret's ARN and the version's id
}

const (
	maxVersions = 100
	keptFor     = 24 * time.Hour
)

var (
	errDeleted = &rejection{"InvalidRequestException", "You can't perform this operation on the secret because it was marked for deletion."}
	errFull    = &rejection{"LimitExceededException", "You've reached the maximum number of versions of this secret."}
)

// Advance moves the clock forward by which versions age.
func (v *versions) Advance(d time.Duration) {
	v.mu.Lock()
	defer v.mu.Unlock()
	v.ahead += d
}

// serveClock shows the clock, and with POST {"advance":"24h"} moves it forward, as the sandbox of IBM Cloud does.
func (v *versions) serveClock(w http.ResponseWriter, r *http.Request) {
	if r.Method == http.MethodPost {
		var asked struct{ Advance string }
		decoder := json.NewDecoder(r.Body)
		decoder.DisallowUnknownFields()
		err := decoder.Decode(&asked)
		by, notDuration := time.ParseDuration(asked.Advance)
		if err != nil || notDuration != nil || by <= 0 || by > 1000*time.Hour {
			http.Error(w, `send {"advance":"24h"}: a Go duration above 0, 1000h at most`, http.StatusBadRequest)
			return
		}
		v.Advance(by)
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"now": time.Now().Add(v.ahead).UTC().Format(time.RFC3339), "ahead_seconds": int64(v.ahead.Seconds())})
}

// count counts a version of the secret, unless it has the version already. current are the ids that moto has labels for.
func (v *versions) count(arn, id string, current map[string][]string) error {
	v.mu.Lock()
	defer v.mu.Unlock()
	now := time.Now().Add(v.ahead)
	if v.made == nil {
		v.made = map[string]map[string]time.Time{}
	}
	if v.made[arn] == nil { // what it was created with
		v.made[arn] = map[string]time.Time{}
		for id := range current {
			v.made[arn][id] = now
		}
	}
	made := v.made[arn]
	maps.DeleteFunc(made, func(id string, at time.Time) bool { return current[id] == nil && now.Sub(at) >= keptFor })
	if _, known := made[id]; known {
		return nil
	}
	young := 0
	for _, at := range made {
		if now.Sub(at) < keptFor {
			young++
		}
	}
	if young >= maxVersions {
		return errFull
	}
	made[id] = now
	return nil
}

// mayStore returns an error if AWS would not store the value of a request to Secrets Manager. What moto refuses by
// itself, such as a write to a replica, it leaves to moto.
func (m *Moto) mayStore(r *http.Request) error {
	switch r.Header.Get("X-Amz-Target") {
	case "secretsmanager.PutSecretValue", "secretsmanager.UpdateSecret":
	default:
		return nil
	}
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return err
	}
	r.Body = io.NopCloser(bytes.NewReader(body))
	var asked struct {
		SecretID           string `json:"SecretId"`
		ClientRequestToken string
		SecretString       *string
		SecretBinary       []byte
	}
	if json.Unmarshal(body, &asked) != nil {
		return nil
	}
	s, _ := signatureOf(r)
	question, err := json.Marshal(map[string]string{"SecretId": asked.SecretID})
	if err != nil {
		return err
	}
	status, answer, err := m.Do(r.Context(), Request{Service: "secretsmanager", Region: s.region, Target: "secretsmanager.DescribeSecret", Body: string(question)})
	if err != nil || status != http.StatusOK {
		return err
	}
	var secret struct {
		ARN, PrimaryRegion string
		DeletedDate        float64
		VersionIdsToStages map[string][]string
	}
	switch err := json.Unmarshal(answer, &secret); {
	case err != nil:
		return err
	case secret.DeletedDate != 0:
		return errDeleted
	case secret.PrimaryRegion != "" && secret.PrimaryRegion != s.region, asked.SecretString == nil && asked.SecretBinary == nil:
		return nil
	}
	return m.count(secret.ARN, asked.ClientRequestToken, secret.VersionIdsToStages)
}
