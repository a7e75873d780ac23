package main

import (
	"cmp"
	"context"
	"fmt"
	"net/http"
	"net/url"
	"time"

	"iam-token-rotator/functions/iamtoken"
)

// secret is what Secrets Manager shows about a secret or a version.
type secret struct {
	ID       string    `json:"id"`
	Name     string    `json:"name"`
	Group    string    `json:"secret_group_id"`
	Expires  time.Time `json:"expiration_date"`
	Versions int       `json:"versions_total"`
	State    int       `json:"state"`
	// only of type iam_credentials:
	ServiceID string          `json:"service_id"`
	Static    bool            `json:"service_id_is_static"`
	Reuse     bool            `json:"reuse_api_key"`
	Key       iamtoken.Secret `json:"api_key"`
	KeyID     string          `json:"api_key_id"`
}

// findSecret finds the secret of this name and group, if it is of one of the types. If there is none, the id is empty.
func (s *setup) findSecret(ctx context.Context, name, group, types string) (secret, error) {
	const size = 200
	doing := "finding the secret " + name
	type listing struct {
		Total   *int     `json:"total_count"`
		Secrets []secret `json:"secrets"`
	}
	for page := range pagesLimit {
		query := url.Values{"groups": {group}, "secret_types": {types}, "search": {name},
			"limit": {fmt.Sprint(size)}, "offset": {fmt.Sprint(page * size)}}
		list, err := fetch[listing](ctx, s.cloud, doing, "secrets?"+query.Encode())
		if err != nil {
			return secret{}, err
		}
		if list.Total == nil {
			return secret{}, fmt.Errorf("%s: the answer is not the expected JSON: check SECRETS_MANAGER_URL", doing)
		}
		for _, found := range list.Secrets {
			if found.Name == name && found.Group == group {
				return found, checkID(doing, found.ID)
			}
		}
		if len(list.Secrets) == 0 || *list.Total <= (page+1)*size {
			return secret{}, nil
		}
	}
	return secret{}, fmt.Errorf("%s: the list does not end", doing)
}

func checkID(doing, id string) error {
	if !idShape.MatchString(id) {
		return fmt.Errorf("%s: the answer has an id of unknown form", doing)
	}
	return nil
}

// createSecret returns the id of the new secret. It sets no expiration date: at that date Secrets Manager destroys a secret for
// good. refused is the advice for a 400.
func (s *setup) createSecret(ctx context.Context, refused string, body map[string]any) (string, error) {
	var created secret
	f := &failure{doing: fmt.Sprintf("creating the secret %s", body["name"])}
	f.ifRejected = cmp.Or(refused, "Check the ids and options.") + " Or a secret of another group has the name: use another --name." // 409 or 400
	if err := s.cloud.send(ctx, f, http.MethodPost, "secrets", body, &created); err != nil {
		return "", err
	}
	return created.ID, checkID(f.doing, created.ID)
}

func (s *setup) createTokenSecret(ctx context.Context) (err error) {
	const noToken = "no token yet"
	body := map[string]any{"name": s.name + "-token", "secret_group_id": s.tokenGroup, "secret_type": "arbitrary", "payload": noToken,
		"description": "IAM access token, kept valid by iam-token-rotator."}
	if s.kv {
		delete(body, "payload")
		body["secret_type"], body["data"] = "kv", map[string]any{iamtoken.DefaultField: noToken}
		body["version_custom_metadata"] = map[string]any{"rotator_version": "rotatorctl"} // the function writes no kv secret without it
	}
	s.tokenSecret, err = s.createSecret(ctx, "", body)
	if err == nil {
		s.say("created the token secret, %s", s.tokenSecret)
	}
	return err
}

// storeInKeyGroup stores the workload's key in its secret.
func (s *setup) storeInKeyGroup(ctx context.Context, key keyValue) (place string, err error) {
	body := map[string]any{"payload": key.value.Reveal(), "version_custom_metadata": map[string]any{"apikey_id": key.id}}
	if s.workload.place != "" {
		f := &failure{doing: "storing the workload's new key"}
		return s.workload.place, s.cloud.send(ctx, f, http.MethodPost, "secrets/"+s.workload.place+"/versions", body, &struct{}{})
	}
	body["name"], body["secret_group_id"], body["secret_type"] = s.name+"-api-key", s.keyGroup, "arbitrary"
	body["description"] = "API key of the workload whose token is published."
	return s.createSecret(ctx, "", body)
}

// deleteSecret deletes a secret, unless it is gone already.
func (s *setup) deleteSecret(ctx context.Context, id string) error {
	return unlessGone(s.cloud.send(ctx, &failure{doing: "deleting the secret " + id}, http.MethodDelete, "secrets/"+id, nil, nil))
}
