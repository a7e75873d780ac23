// Command provider emulates IBM's Terraform provider. It serves the schema in the file SCHEMA, by which Terraform validates a
// configuration, and `terraform test` invents the answers of the provider. It is built with .ci/tools.mod.
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
	for name, a := range b.Attributes {
		kind, err := tftypes.ParseJSONType(a.Type)
		if err != nil {
			panic(err)
		}
		s.Attributes = append(s.Attributes, &tfprotov5.SchemaAttribute{Name: name, Type: kind, Required: a.Required, Optional: a.Optional, Computed: a.Computed, Deprecated: a.Deprecated})
	}
	modes := map[string]tfprotov5.SchemaNestedBlockNestingMode{"list": tfprotov5.SchemaNestedBlockNestingModeList, "set": tfprotov5.SchemaNestedBlockNestingModeSet, "single": tfprotov5.SchemaNestedBlockNestingModeSingle, "map": tfprotov5.SchemaNestedBlockNestingModeMap}
	for name, inner := range b.BlockTypes {
		s.BlockTypes = append(s.BlockTypes, &tfprotov5.SchemaNestedBlock{TypeName: name, Block: inner.Block.schema(), Nesting: modes[inner.NestingMode], MinItems: inner.MinItems, MaxItems: inner.MaxItems})
	}
	return s
}

// provider serves the requests of a validation, and of a test with mock_provider.
type provider struct{ tfprotov5.ProviderServer }

func (provider) GetMetadata(context.Context, *tfprotov5.GetMetadataRequest) (*tfprotov5.GetMetadataResponse, error) {
	return &tfprotov5.GetMetadataResponse{}, nil
}
func (provider) GetProviderSchema(context.Context, *tfprotov5.GetProviderSchemaRequest) (*tfprotov5.GetProviderSchemaResponse, error) {
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
	for name, resource := range s.ResourceSchemas {
		out.ResourceSchemas[name] = &tfprotov5.Schema{Block: resource.Block.schema()}
	}
	return out, nil
}
func (provider) ValidateResourceTypeConfig(context.Context, *tfprotov5.ValidateResourceTypeConfigRequest) (*tfprotov5.ValidateResourceTypeConfigResponse, error) {
	return &tfprotov5.ValidateResourceTypeConfigResponse{}, nil
}
func (provider) PrepareProviderConfig(_ context.Context, r *tfprotov5.PrepareProviderConfigRequest) (*tfprotov5.PrepareProviderConfigResponse, error) {
	return &tfprotov5.PrepareProviderConfigResponse{PreparedConfig: r.Config}, nil
}
func (provider) StopProvider(context.Context, *tfprotov5.StopProviderRequest) (*tfprotov5.StopProviderResponse, error) {
	return &tfprotov5.StopProviderResponse{}, nil
}

func main() {
	if err := tf5server.Serve("registry.terraform.io/ibm-cloud/ibm", func() tfprotov5.ProviderServer { return provider{} }); err != nil {
		panic(err)
	}
}
