package ibmcloudtest

import (
	"fmt"
	"net/http"
	"slices"
	"strings"
)

// A Case is an answer that IBM publishes, by a name that a [Fault] can have. Codes are those of IBM's pages and of its
// users' reports: a program must go by the status.
type Case struct {
	Name     string
	Status   int
	Code     string // errorCode at IAM; elsewhere that of the first error. Empty: the body is an HTML page
	Message  string
	Details  string // errorDetails at IAM; often empty. "{apikey}" stands for the key of the request, in Message too
	services []service
	ops      []string // of those services; if empty, all
}

var (
	atIAM            = []service{serviceIAM}
	atAPIKeys        = []service{serviceAPIKeys}
	atSecretsManager = []service{serviceSecretsManager}
	beyondIAM        = []service{serviceAccess, serviceSecretsManager, serviceLogsRouting}
	everywhere       = append(slices.Concat(atIAM, atAPIKeys), beyondIAM...)
	ofToken          = []string{OpIAMToken}
)

// cases is the one list of published answers. The table in scripts/sandbox/README.md is held against it.
var cases = []Case{
	{"key_unknown", 400, "BXNIM0415E", "Provided API key could not be found.", "", atIAM, ofToken},
	{"key_unknown_401", 401, "BXNIM0415E", "Provided API key could not be found.", "", atIAM, ofToken},
	{"key_repeated", 400, "BXNIM0415E", "Provided API key {apikey} could not be found.", "The API key {apikey} is unknown.", atIAM, ofToken},
	{"key_disabled", 400, "BXNIM0462E", "Provided API key is disabled.", "", atIAM, ofToken},
	{"key_disabled_401", 401, "BXNIM0462E", "Provided API key is disabled.", "", atIAM, ofToken},
	{"property_missing", 400, "BXNIM0109E", "Property missing or empty: apikey.", "", atIAM, ofToken},
	{"property_invalid", 400, "BXNIM0106E", "Property apikey has an invalid value.", "", atIAM, ofToken},
	{"invalid_token", 400, "BXNIM0407E", "Provided token is invalid.", "", atIAM, ofToken},
	{"invalid_token_401", 401, "BXNIM0407E", "Provided token is invalid.", "", atIAM, ofToken},
	{"refresh_token_invalid", 400, "BXNIM0408E", "Provided refresh_token is invalid.", "", atIAM, ofToken},
	{"user_left", 400, "BXNIM0410E", "Provided user not found or active.", "The user is not a member of the account.", atIAM, ofToken},
	{"user_suspended", 401, "BXNIM0436E", "User is suspended in the account.", "", atIAM, ofToken},
	{"session_gone", 400, "BXNIM0439E", "Session not found.", "", atIAM, ofToken},
	{"address_not_allowed", 401, "BXNIM0430E", "User login from given IP address is not permitted.", "", atIAM, ofToken},
	{"profile_conditions", 400, "BXNIM0398E", "The trusted profile cannot be used by this compute resource.",
		"None of the conditions of the trusted profile fits the compute resource token.", atIAM, ofToken},

	{"invalid_token", 401, "unauthorized", "The provided access token is invalid or has expired.", "", beyondIAM, nil},
	{"invalid_token", 401, "invalid_access_token", "The provided access token is invalid.", "", atAPIKeys, nil},
	{"denied", 403, "forbidden", "The caller lacks the permission for this action.", "", beyondIAM, nil},
	{"denied", 403, "forbidden", "You are not authorized to use this API.", "The action iam-identity.apikey is missing.", atAPIKeys, nil},
	{"context_restriction", 403, "forbidden", "The request is denied by a context-based restriction.", "", everywhere, nil},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", atAPIKeys, []string{OpAPIKeysGet, OpAPIKeysDetails, OpAPIKeysUpdate, OpAPIKeysDelete, OpServiceIDs}},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", atSecretsManager, nil},
	{"version_locked", 412, "secrets-manager.Error07012", "The requested action can't be completed because the secret version is locked.", "",
		atSecretsManager, []string{OpVersionsCreate, OpVersionsGet, OpSecretsGet, OpSecretsDelete}},
	{"conflict", 409, "conflict", "The API key was changed by someone else, or is locked.", "", atAPIKeys,
		[]string{OpAPIKeysUpdate, OpAPIKeysDelete, OpAPIKeysDisable}},
	{"already_exists", 409, "already_exists", "A secret with the same name already exists.", "", atSecretsManager, []string{OpSecretsCreate, OpSecretsPatch, OpGroups}},
	{"too_large", 413, "too_large", "The payload is too large.", "", atSecretsManager, []string{OpSecretsCreate, OpVersionsCreate}},

	{"network_rule", 403, "", "Forbidden", "", everywhere, nil},
	{"rate_limited", 429, "too_many_requests", "The rate limit is exceeded.", "", everywhere, nil},
	{"server_error", 500, "", "Internal Server Error", "", everywhere, nil},
	{"bad_gateway", 502, "", "Bad Gateway", "", everywhere, nil},
	{"unavailable", 503, "service_unavailable", "The service is temporarily unavailable.", "", everywhere, nil},
	{"gateway_timeout", 504, "", "Gateway Timeout", "", everywhere, nil},
}

// Cases returns all of them.
func Cases() []Case { return slices.Clone(cases) }

// Of says what the case fits: operations, or services.
func (c *Case) Of() string {
	names := c.ops
	if len(c.services) == len(everywhere) {
		return "each operation"
	}
	if len(names) == 0 {
		for _, s := range c.services {
			names = append(names, serviceNames[s])
		}
	}
	return strings.Join(names, ", ")
}

// CasesOf returns the cases that fit an operation; [OpAny] has those that fit all of them.
func CasesOf(op string) []Case {
	return slices.DeleteFunc(slices.Clone(cases), func(c Case) bool { return !c.fits(op) })
}

func (c *Case) fits(op string) bool {
	known := false
	for _, list := range operations {
		for _, o := range list {
			if op != OpAny && op != o.name {
				continue
			}
			known = true
			if !slices.Contains(c.services, o.service) || len(c.ops) > 0 && !slices.Contains(c.ops, o.name) {
				return false
			}
		}
	}
	return known
}

// caseNamed returns the case of that name that fits the operation. The error lists those that do.
func caseNamed(name, op string) (Case, error) {
	var names []string
	for _, c := range CasesOf(op) {
		if c.Name == name {
			return c, nil
		}
		names = append(names, c.Name)
	}
	return Case{}, fmt.Errorf("case must be one that fits the op %s: %s", op, strings.Join(names, ", "))
}

// caseReply answers as the service of the call would.
func (c *Cloud) caseReply(in *call, of Case) reply {
	var out reply
	if of.Code == "" {
		page := fmt.Sprintf("<html>\n<head><title>%d %s</title></head>\n<body><h1>%[1]d %[2]s</h1></body>\n</html>\n", of.Status, of.Message)
		out = reply{of.Status, http.Header{"Content-Type": {"text/html"}}, []byte(page)}
	} else {
		repeat := func(text string) string { return strings.ReplaceAll(text, "{apikey}", in.form.Get("apikey")) }
		out = c.errorReply(in, &apiError{status: of.Status, code: of.Code, message: repeat(of.Message), details: repeat(of.Details)})
	}
	if in.operation.service == serviceIAM {
		out.header.Set("Transaction-Id", in.transaction)
	}
	if of.Status == http.StatusTooManyRequests {
		out.header.Set("Retry-After", "1")
	}
	return out
}
