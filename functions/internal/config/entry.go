package config

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"strings"
)

// entry is one element of ROTATIONS.
type entry struct {
	Name         string `json:"name"`
	APIKeySecret string `json:"api_key_secret"`
	APIKeyField  string `json:"api_key_field"`
	TokenSecret  string `json:"token_secret"`
	TokenField   string `json:"token_field"`
	Format       string `json:"format"`
	Expect       struct {
		Account string `json:"account"`
		IAMID   string `json:"iam_id"`
	} `json:"expect"`
	Mirror []string `json:"mirror"`
}

// decodeEntries reads the list strictly: an unknown field is a misspelt one.
func decodeEntries(faults *faults, source string, text []byte) []entry {
	decoder := json.NewDecoder(bytes.NewReader(text))
	decoder.DisallowUnknownFields()
	var entries []entry
	if err := decoder.Decode(&entries); err != nil {
		faults.add(source, "is no JSON list of rotations: %s", jsonFault(err))
		return nil
	}
	if _, err := decoder.Token(); !errors.Is(err, io.EOF) {
		faults.add(source, "something follows the list")
	}
	if len(entries) == 0 {
		faults.add(source, "the list is empty: name at least one rotation")
	}
	return entries
}

// jsonFault says what is wrong in the words of a person who wrote the list.
func jsonFault(err error) string {
	var syntax *json.SyntaxError
	var wrongType *json.UnmarshalTypeError
	switch {
	case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF):
		return "it ends too early"
	case errors.As(err, &syntax):
		return fmt.Sprintf("a syntax error at character %d", syntax.Offset)
	case errors.As(err, &wrongType) && wrongType.Field == "":
		return "it must be a list of objects"
	case errors.As(err, &wrongType):
		return fmt.Sprintf("the field %s has the wrong type", wrongType.Field)
	default:
		field, _ := strings.CutPrefix(err.Error(), "json: unknown field ")
		return "unknown field " + short(strings.Trim(field, `"`))
	}
}
