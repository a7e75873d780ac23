package ibm_test

import (
	"encoding/json"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/hashicorp/hcl/v2/hclsyntax"
)

// A providerSchema is what the provider says of its resources.
type providerSchema struct {
	Provider        struct{ Block schemaBlock }
	ResourceSchemas map[string]struct{ Block schemaBlock } `json:"resource_schemas"`
}

type schemaBlock struct {
	Attributes map[string]struct{ Required, Optional, Computed, Deprecated bool }
	BlockTypes map[string]struct {
		NestingMode string `json:"nesting_mode"`
		Block       schemaBlock
		MinItems    int `json:"min_items"`
		MaxItems    int `json:"max_items"`
	} `json:"block_types"`
}

func loadSchema(path string) (providerSchema, error) {
	var schema providerSchema
	raw, err := os.ReadFile(path)
	if err != nil {
		return schema, err
	}
	return schema, json.Unmarshal(raw, &schema)
}

// deniedTypes would carry a key, a secret value or a token into the state, as resource or as data source.
var deniedTypes = []string{"api_key", "secret_metadata", "_secret", "_secrets", "auth_token", "credential", "resource_key"}

func isDenied(resourceType string) bool {
	return slices.ContainsFunc(deniedTypes, func(part string) bool { return strings.Contains(resourceType, part) }) &&
		resourceType != "ibm_sm_secret_group"
}

// metaArguments belong to Terraform, whatever the resource. Provisioners and connections are left out: none belongs here.
var metaArguments = []string{"count", "for_each", "depends_on", "provider"}

// checkResource says what is wrong with a resource block, nothing if it fits the schema.
func (s providerSchema) checkResource(block *hclsyntax.Block) []string {
	resourceType, name := block.Labels[0], strings.Join(block.Labels, ".")
	if isDenied(resourceType) {
		return []string{name + ": its values would be written into the state"}
	}
	known, ok := s.ResourceSchemas[resourceType]
	if !ok {
		return []string{name + ": the provider has no such resource"}
	}
	return known.Block.check(name, block.Body, true)
}

// check compares a block's body with its schema. Only the outermost block takes Terraform's own arguments.
func (s schemaBlock) check(name string, body *hclsyntax.Body, outermost bool) []string {
	var faults []string
	for argument := range body.Attributes {
		attribute, known := s.Attributes[argument]
		switch {
		case outermost && slices.Contains(metaArguments, argument):
		case !known:
			faults = append(faults, fmt.Sprintf("%s: no argument %s", name, argument))
		case argument == "id" || !attribute.Required && !attribute.Optional:
			faults = append(faults, fmt.Sprintf("%s: %s is the provider's to set", name, argument))
		case attribute.Deprecated:
			faults = append(faults, fmt.Sprintf("%s: %s is deprecated", name, argument))
		}
	}
	for argument, attribute := range s.Attributes {
		if _, given := body.Attributes[argument]; attribute.Required && !given {
			faults = append(faults, fmt.Sprintf("%s: %s is required", name, argument))
		}
	}
	return append(faults, s.checkBlocks(name, body, outermost)...)
}

// checkBlocks compares the nested blocks. One written as "dynamic" counts once, and its content is checked.
func (s schemaBlock) checkBlocks(name string, body *hclsyntax.Body, outermost bool) []string {
	var faults []string
	count := map[string]int{}
	for _, block := range body.Blocks {
		kind, content := block.Type, block.Body
		if outermost && kind == "lifecycle" {
			continue
		}
		if kind == "dynamic" {
			kind = block.Labels[0]
			content = nil
			for _, inner := range block.Body.Blocks {
				if inner.Type == "content" {
					content = inner.Body
				}
			}
		}
		nested, known := s.BlockTypes[kind]
		if !known || content == nil {
			faults = append(faults, fmt.Sprintf("%s: no block %s", name, kind))
			continue
		}
		count[kind]++
		faults = append(faults, nested.Block.check(name+"."+kind, content, false)...)
	}
	for kind, nested := range s.BlockTypes {
		most := nested.MaxItems
		if nested.NestingMode == "single" {
			most = 1
		}
		if count[kind] < nested.MinItems || most > 0 && count[kind] > most {
			faults = append(faults, fmt.Sprintf("%s: %d blocks %s, want %d to %d", name, count[kind], kind, nested.MinItems, most))
		}
	}
	return faults
}
