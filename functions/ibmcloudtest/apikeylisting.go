package ibmcloudtest

import (
	"cmp"
	"encoding/base64"
	"slices"
	"strconv"
	"strings"
)

// listAPIKeys lists the keys of one iam id, in pages. Their values are not among it.
func (c *Cloud) listAPIKeys(in *call) (any, error) {
	if err := in.mayManageKeys(); err != nil {
		return nil, err
	}
	query := in.request.URL.Query()
	iamID := cmp.Or(query.Get("iam_id"), in.caller.iamID)
	if account := query.Get("account_id"); account != "" && account != c.account {
		return nil, badField("account_id", "is not the account of the iam_id")
	}
	limit, err := queryNumber(query, "pagesize", 20, 1, 100)
	if err != nil {
		return nil, err
	}
	offset, err := pageOffset(query.Get("pagetoken"))
	if err != nil {
		return nil, err
	}
	var keys []*apiKey
	for _, key := range c.keys {
		if key.owner.iamID == iamID {
			keys = append(keys, key)
		}
	}
	slices.SortFunc(keys, func(a, b *apiKey) int { return cmp.Compare(a.sequence, b.sequence) })

	list := []any{}
	for _, key := range keys[min(offset, len(keys)):min(offset+limit, len(keys))] {
		list = append(list, c.apiKeyJSON(key, ""))
	}
	answer := map[string]any{"offset": offset, "limit": limit, "apikeys": list}
	if offset+limit < len(keys) {
		query.Set("pagetoken", pageToken(offset+limit))
		answer["next"] = in.href(query)
	}
	return answer, nil
}

const pageTokenPrefix = "offset:"

// pageToken names a page. IBM's are opaque.
func pageToken(offset int) string {
	return base64.URLEncoding.EncodeToString([]byte(pageTokenPrefix + strconv.Itoa(offset)))
}

func pageOffset(token string) (int, error) {
	if token == "" {
		return 0, nil
	}
	text, err := base64.URLEncoding.DecodeString(token)
	if err != nil {
		return 0, badField("pagetoken", "is none of this service")
	}
	offset, err := strconv.Atoi(strings.TrimPrefix(string(text), pageTokenPrefix))
	if err != nil || offset < 0 {
		return 0, badField("pagetoken", "is none of this service")
	}
	return offset, nil
}
