package ibmcloudtest

// getAPIKeyDetails tells of the key in the header IAM-ApiKey, without its value: to the admin and to
// the key's owner. Whether IBM lets every service id see its own key is open; users may see theirs.
func (c *Cloud) getAPIKeyDetails(in *call) (any, error) {
	key, ok := c.keys[in.request.Header.Get("IAM-ApiKey")]
	switch {
	case !ok && in.caller.class == IdentityAdmin:
		return nil, notFound("API key")
	case !ok || key.owner != in.caller && in.caller.class != IdentityAdmin:
		return nil, in.mayManageKeys()
	}
	return c.apiKeyJSON(key, ""), nil
}
