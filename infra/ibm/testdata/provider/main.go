// Command provider emulates IBM's Terraform provider: it serves the schema in SCHEMA, by which Terraform validates a
// configuration and `terraform test` makes up what the provider would answer. It is built with .ci/tools.mod.
package main

import (
	"context"
	"encoding/json"
	"os"

	"github.com/hashicorp/terraform-plugin-go/tfprotov5"
	"github.com/hashicorp/terraform-plugin-go/tfprotov5/tf5server"
	"github.com/hashicorp/terraform-plugin-go/tftypes"
)

type block struct {
	Attributes map[string]struct {
		Type                                     json.RawMessage
		Required, Optional, Computed, Deprecated bool
	}
	BlockTypes map[string]struct {
		NestingMode string `json:"nesting_mode"`
		Block       block
		MinItems    int64 `json:"min_items"`
		MaxItems    int64 `json:"max_items"`
	} `json:"block_types"`
}

func (b block) schema() *tfprotov5.SchemaBlock {
	s := &tfprotov5.SchemaBlock{}
	for n, a := range b.Attributes {
		t, err := tftypes.ParseJSONType(a.Type)
		if err != nil {
			panic(err)
		}
		s.Attributes = append(s.Attributes, &tfprotov5.SchemaAttribute{Name: n, Type: t, Required: a.Required, Optional: a.Optional, Computed: a.Computed, Deprecated: a.Deprecated})
	}
	modes := map[string]tfprotov5.SchemaNestedBlockNestingMode{"list": tfprotov5.SchemaNestedBlockNestingModeList, "set": tfprotov5.SchemaNestedBlockNestingModeSet, "single": tfprotov5.SchemaNestedBlockNestingModeSingle, "map": tfprotov5.SchemaNestedBlockNestingModeMap}
	for n, k := range b.BlockTypes {
		s.BlockTypes = append(s.BlockTypes, &tfprotov5.SchemaNestedBlock{TypeName: n, Block: k.Block.schema(), Nesting: modes[k.NestingMode], MinItems: k.MinItems, MaxItems: k.MaxItems})
	}
	return s
}

// p answers what a validation and a test with mock_provider ask.
type p struct{ tfprotov5.ProviderServer }

func (p) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	return &tfprotov5.GetMetadataResponse{}, nil
}
func (p) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
	raw, err := os.ReadFile(os.Getenv("SCHEMA"))
	if err != nil {
		return nil, err
	}
	var s struct {
		Provider        struct{ Block block }
		ResourceSchemas map[string]struct{ Block block } `json:"resource_schemas"`
	}
	if err := json.Unmarshal(raw, &s); err != nil {
		return nil, err
	}
	out := &tfprotov5.GetProviderSchemaResponse{Provider: &tfprotov5.Schema{Block: s.Provider.Block.schema()}, ResourceSchemas: map[string]*tfprotov5.Schema{}, DataSourceSchemas: map[string]*tfprotov5.Schema{}}
	for n, r := range s.ResourceSchemas {
		out.ResourceSchemas[n] = &tfprotov5.Schema{Block: r.Block.schema()}
	}
	return out, nil
}
func (p) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}
func (p) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}
func (p) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func main() {
	if err := tf5server.Serve("registry.terraform.io/ibm-cloud/ibm", func() tfprotov5.ProviderServer { return p{} }); err != nil {
		panic(err)
	}
}
