package ibmcloudtest

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"time"
)

// controlPrefix is where the control interface lives, without authorization:
//
//	POST   /_sandbox/faults    add a Fault: 201, or 400 with the allowed values
//	GET    /_sandbox/faults    the faults that wait
//	DELETE /_sandbox/faults    clear them
//	PATCH  /_sandbox/settings  {"token_ttl_seconds":900} and the statuses of Undocumented
//	GET    /_sandbox/settings
//	GET    /_sandbox/requests  the request log, without secrets
//	DELETE /_sandbox/requests  empty it
const controlPrefix = "/_sandbox/"

var controls = map[string]map[string]func(c *Cloud, body []byte) (int, any, error){
	"faults": {
		http.MethodGet:    func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.Faults(), nil },
		http.MethodPost:   (*Cloud).postFault,
		http.MethodDelete: func(c *Cloud, _ []byte) (int, any, error) { c.ClearFaults(); return http.StatusNoContent, nil, nil },
	},
	"settings": {
		http.MethodGet:   func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.controlSettings(), nil },
		http.MethodPatch: (*Cloud).patchSettings,
	},
	"requests": {
		http.MethodGet:    func(c *Cloud, _ []byte) (int, any, error) { return http.StatusOK, c.Requests(), nil },
		http.MethodDelete: func(c *Cloud, _ []byte) (int, any, error) { c.ClearRequests(); return http.StatusNoContent, nil, nil },
	},
}

// control serves the control interface.
func (c *Cloud) control(r *http.Request) reply {
	methods, ok := controls[strings.TrimPrefix(r.URL.Path, controlPrefix)]
	if !ok {
		return c.noOperation(r, nil)
	}
	serve, ok := methods[r.Method]
	if !ok {
		allow := []string{}
		for _, method := range []string{http.MethodGet, http.MethodPost, http.MethodPatch, http.MethodDelete} {
			if methods[method] != nil {
				allow = append(allow, method)
			}
		}
		return c.noOperation(r, allow)
	}
	var body []byte
	if r.Body != nil {
		var err error
		if body, err = io.ReadAll(io.LimitReader(r.Body, maxBody)); err != nil {
			return jsonReply(http.StatusBadRequest, commonError(badRequest("The body could not be read.")))
		}
	}
	status, answer, err := serve(c, body)
	if err != nil {
		return jsonReply(http.StatusBadRequest, commonError(badRequest(err.Error())))
	}
	return jsonReply(status, answer)
}

func (c *Cloud) postFault(body []byte) (int, any, error) {
	var wire wireFault
	if err := decodeControl(body, &wire, faultFields); err != nil {
		return 0, nil, err
	}
	f, err := wire.fault()
	if err == nil {
		err = c.AddFault(f)
	}
	return http.StatusCreated, f, err
}

// controlSettings are the settings as the control interface writes them.
type controlSettings struct {
	TokenTTLSeconds *int64 `json:"token_ttl_seconds"`
	Undocumented
}

const settingsFields = "token_ttl_seconds, unknown_key_status, duplicate_status, too_large_status and destroyed_status (whole numbers)"

func (c *Cloud) controlSettings() controlSettings {
	c.mu.Lock()
	defer c.mu.Unlock()
	ttl := int64(c.settings.tokenTTL / time.Second)
	return controlSettings{&ttl, c.settings.Undocumented}
}

func (c *Cloud) patchSettings(body []byte) (int, any, error) {
	var change controlSettings
	if err := decodeControl(body, &change, settingsFields); err != nil {
		return 0, nil, err
	}
	if err := change.Undocumented.validate(); err != nil {
		return 0, nil, err
	}
	if ttl := change.TokenTTLSeconds; ttl != nil {
		if *ttl < 1 || *ttl > int64(maxTokenTTL/time.Second) {
			return 0, nil, fmt.Errorf("token_ttl_seconds must be 1 to %d", maxTokenTTL/time.Second)
		}
		c.SetTokenTTL(time.Duration(*ttl) * time.Second)
	}
	c.mu.Lock()
	c.settings.apply(change.Undocumented)
	c.mu.Unlock()
	return http.StatusOK, c.controlSettings(), nil
}

// decodeControl reads one JSON object strictly: no field that v lacks, nothing after it. The error
// says what fields there are and repeats no value.
func decodeControl(body []byte, v any, fields string) error {
	decoder := json.NewDecoder(bytes.NewReader(body))
	decoder.DisallowUnknownFields()
	err := decoder.Decode(v)
	if err == nil && decoder.Decode(&struct{}{}) == io.EOF {
		return nil
	}
	problem := "the body must be one JSON object"
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.As(err, &wrongType) && wrongType.Field != "":
		problem = wrongType.Field + " has the wrong type"
	case err != nil && strings.HasPrefix(err.Error(), "json: unknown field"):
		problem = strings.TrimPrefix(err.Error(), "json: ")
	}
	return fmt.Errorf("%s; the fields are %s", problem, fields)
}
