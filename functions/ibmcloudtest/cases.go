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
	Name    string
	Status  int
	Code    string // errorCode at IAM; elsewhere that of the first error. Empty: the body is an HTML page
	Message string
	Details string // errorDetails at IAM; often empty. "{apikey}" stands for the key of the request, in Message too
	Of      string // the names of the operations or of the services that it fits, apart by ", "
}

const (
	everywhere = "each operation"
	beyondIAM  = "access groups, Secrets Manager, Logs Routing"
)

var serviceNames = map[service]string{
	serviceAPIKeys: "API keys", serviceAccess: "access groups", serviceSecretsManager: "Secrets Manager", serviceLogsRouting: "Logs Routing",
}

// cases is the one list of published answers. The table in scripts/sandbox/README.md is held against it.
var cases = []Case{
	{"key_unknown", 400, "BXNIM0415E", "Provided API key could not be found.", "", "iam.token"},
	{"key_unknown_401", 401, "BXNIM0415E", "Provided API key could not be found.", "", "iam.token"},
	{"key_repeated", 400, "BXNIM0415E", "Provided API key {apikey} could not be found.", "The API key {apikey} is unknown.", "iam.token"},
	{"key_disabled", 400, "BXNIM0462E", "Provided API key is disabled.", "", "iam.token"},
	{"key_disabled_401", 401, "BXNIM0462E", "Provided API key is disabled.", "", "iam.token"},
	{"property_missing", 400, "BXNIM0109E", "Property missing or empty: apikey.", "", "iam.token"},
	{"property_invalid", 400, "BXNIM0106E", "Property apikey has an invalid value.", "", "iam.token"},
	{"invalid_token", 400, "BXNIM0407E", "Provided token is invalid.", "", "iam.token"},
	{"invalid_token_401", 401, "BXNIM0407E", "Provided token is invalid.", "", "iam.token"},
	{"refresh_token_invalid", 400, "BXNIM0408E", "Provided refresh_token is invalid.", "", "iam.token"},
	{"user_left", 400, "BXNIM0410E", "Provided user not found or active.", "The user is not a member of the account.", "iam.token"},
	{"user_suspended", 401, "BXNIM0436E", "User is suspended in the account.", "", "iam.token"},
	{"session_gone", 400, "BXNIM0439E", "Session not found.", "", "iam.token"},
	{"address_not_allowed", 401, "BXNIM0430E", "User login from given IP address is not permitted.", "", "iam.token"},
	{"profile_conditions", 400, "BXNIM0398E", "The trusted profile cannot be used by this compute resource.",
		"None of the conditions of the trusted profile fits the compute resource token.", "iam.token"},

	{"invalid_token", 401, "unauthorized", "The provided access token is invalid or has expired.", "", beyondIAM},
	{"invalid_token", 401, "invalid_access_token", "The provided access token is invalid.", "", "API keys"},
	{"denied", 403, "forbidden", "The caller lacks the permission for this action.", "", beyondIAM},
	{"denied", 403, "forbidden", "You are not authorized to use this API.", "The action iam-identity.apikey is missing.", "API keys"},
	{"context_restriction", 403, "forbidden", "The request is denied by a context-based restriction.", "", everywhere},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", "apikeys.get, apikeys.details, apikeys.update, apikeys.delete, serviceids"},
	{"not_found", 404, "not_found", "The requested resource was not found.", "", "Secrets Manager"},
	{"version_locked", 412, "secrets-manager.Error07012", "The requested action can't be completed because the secret version is locked.", "",
		"versions.create, versions.get, secrets.get, secrets.delete"},
	{"conflict", 409, "conflict", "The API key was changed by someone else, or is locked.", "", "apikeys.update, apikeys.delete, apikeys.disable"},
	{"already_exists", 409, "already_exists", "A secret with the same name already exists.", "", "secrets.create, secrets.patch, groups"},
	{"too_large", 413, "too_large", "The payload is too large.", "", "secrets.create, versions.create"},

	{"network_rule", 403, "", "Forbidden", "", everywhere},
	{"rate_limited", 429, "too_many_requests", "The rate limit is exceeded.", "", everywhere},
	{"server_error", 500, "", "Internal Server Error", "", everywhere},
	{"bad_gateway", 502, "", "Bad Gateway", "", everywhere},
	{"unavailable", 503, "service_unavailable", "The service is temporarily unavailable.", "", everywhere},
	{"gateway_timeout", 504, "", "Gateway Timeout", "", everywhere},
}

func Cases() []Case { return slices.Clone(cases) }

// CasesOf returns the cases that fit an operation; [OpAny] has those that fit all of them.
func CasesOf(op string) []Case {
	return slices.DeleteFunc(Cases(), func(c Case) bool { return !c.fits(op) })
}

func (c *Case) fits(op string) bool {
	if op == OpAny || c.Of == everywhere {
		return c.Of == everywhere
	}
	of := strings.Split(c.Of, ", ")
	return slices.Contains(of, op) || !slices.ContainsFunc(operations, func(o *operation) bool {
		return o.name == op && !slices.Contains(of, serviceNames[o.service])
	})
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

// published is the first case of that name as an error.
func published(name string) *apiError {
	i := slices.IndexFunc(cases, func(c Case) bool { return c.Name == name })
	return &apiError{status: cases[i].Status, code: cases[i].Code, message: cases[i].Message, details: cases[i].Details}
}

// caseReply answers as the service of the call would.
func (c *Cloud) caseReply(in *call, of Case) (out reply) {
	if of.Code == "" {
		page := fmt.Sprintf("<html>\n<head><title>%d %s</title></head>\n<body><h1>%[1]d %[2]s</h1></body>\n</html>\n", of.Status, of.Message)
		out = c.reply(in, of.Status, "text/html", []byte(page))
	} else {
		key := strings.NewReplacer("{apikey}", in.form.Get("apikey"))
		out = c.errorReply(in, &apiError{status: of.Status, code: of.Code, message: key.Replace(of.Message), details: key.Replace(of.Details)})
	}
	if of.Status == http.StatusTooManyRequests {
		out.header.Set("Retry-After", "1")
	}
	return out
}

// caseList are the cases as the control interface writes them, with the operations that each fits.
func (c *Cloud) caseList(*call) (any, error) {
	return rendered(cases, func(of Case) object {
		fits := slices.DeleteFunc(operationNames(), func(op string) bool { return !of.fits(op) })
		slices.Sort(fits)
		return object{"name": of.Name, "status": of.Status, "answer": strings.TrimSpace(of.Code + " " + of.Message), "ops": fits}
	}), nil
}
