package api

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"os"
	"path/filepath"
	"reflect"
	"regexp"
	"slices"
	"strings"
	"testing"
)

// roots are the types from which every other is reached.
var roots = []any{
	VmConfig{}, VmInfo{}, VmmPingResponse{}, VmCounters{}, PciDeviceInfo{}, VmRemoveDevice{}, VmResize{}, VmResizeDisk{},
}

// unpublished are members that the VMM's code has and its document lacks, and
// what a version does not have yet.
var unpublished = map[string][]string{
	"openapi-v40.json": {
		"/vm.resize-disk", "VmResizeDisk",
		"DeviceNode.parent", "DiskConfig.image_type", "ImageType",
		"PayloadConfig.igvm", "PayloadConfig.host_data", "PlatformConfig.sev_snp",
	},
	"openapi-v53.json": {"DeviceNode.parent"},
}

type schema struct {
	Type       string            `json:"type"`
	Ref        string            `json:"$ref"`
	Properties map[string]schema `json:"properties"`
	Required   []string          `json:"required"`
	Enum       []string          `json:"enum"`
}

type document struct {
	Paths      map[string]map[string]json.RawMessage `json:"paths"`
	Components struct {
		Schemas map[string]schema `json:"schemas"`
	} `json:"components"`
}

func (d document) resolve(s schema) schema {
	if name, ok := strings.CutPrefix(s.Ref, "#/components/schemas/"); ok {
		return d.Components.Schemas[name]
	}
	return s
}

// TestPublishedDocument compares our document with those that Cloud Hypervisor
// publishes, where they lie beside the checkout.
func TestPublishedDocument(t *testing.T) {
	ours, err := os.ReadFile("../openapi.yaml")
	if err != nil {
		t.Fatal(err)
	}
	endpoints := regexp.MustCompile(`(?m)^  (/[a-z.-]+):\n    (get|put):$`).FindAllStringSubmatch(string(ours), -1)
	if len(endpoints) < 10 {
		t.Fatalf("found %d endpoints in our document", len(endpoints))
	}
	for name, missing := range unpublished {
		t.Run(name, func(t *testing.T) {
			published := read(t, name)
			for _, e := range endpoints {
				if _, ok := published.Paths[e[1]][e[2]]; ok == slices.Contains(missing, e[1]) {
					t.Errorf("%s %s is published: %t", e[2], e[1], ok)
				}
			}
			types := map[string]reflect.Type{}
			for _, r := range roots {
				collect(reflect.TypeOf(r), types)
			}
			for name, typ := range types {
				if !slices.Contains(missing, name) {
					compare(t, published, name, typ, missing)
				}
			}
		})
	}
}

func read(t *testing.T, name string) (d document) {
	t.Helper()
	path := filepath.Join("../../../../shared/clh", name) // beside the module's root
	b, err := os.ReadFile(path)
	if err != nil {
		t.Skipf("needs the published document: %v", err)
	}
	if err := json.Unmarshal(b, &d); err != nil {
		t.Fatalf("%s: %v", path, err)
	}
	return d
}

func compare(t *testing.T, d document, name string, typ reflect.Type, missing []string) {
	published, ok := d.Components.Schemas[name]
	if !ok {
		t.Errorf("schema %s is not published", name)
		return
	}
	if got := kind(typ); got != published.Type {
		t.Errorf("schema %s is %s, published as %s", name, got, published.Type)
	}
	if typ.Kind() != reflect.Struct {
		return
	}
	for f := range typ.Fields() {
		member, _, _ := strings.Cut(f.Tag.Get("json"), ",")
		if slices.Contains(missing, name+"."+member) {
			continue
		}
		p, ok := published.Properties[member]
		if !ok {
			t.Errorf("member %s.%s is not published", name, member)
			continue
		}
		if got, want := kind(f.Type), d.resolve(p).Type; got != want {
			t.Errorf("member %s.%s is %s, published as %s", name, member, got, want)
		}
		if f.Type.Kind() != reflect.Pointer && !slices.Contains(published.Required, member) {
			t.Errorf("member %s.%s is always sent, published as optional", name, member)
		}
	}
}

// collect enters the named types that t is made of. Enumerations that stand
// within a member have no name in the document.
func collect(t reflect.Type, into map[string]reflect.Type) {
	switch t.Kind() {
	case reflect.Pointer, reflect.Slice:
		collect(t.Elem(), into)
		return
	case reflect.Map:
		collect(t.Elem(), into)
	}
	if t.PkgPath() == "" || strings.HasSuffix(t.Name(), "Mode") || strings.HasSuffix(t.Name(), "State") || into[t.Name()] != nil {
		return
	}
	into[t.Name()] = t
	if t.Kind() == reflect.Struct {
		for f := range t.Fields() {
			collect(f.Type, into)
		}
	}
}

// kind is the JSON type of a Go type.
func kind(t reflect.Type) string {
	switch t.Kind() {
	case reflect.Pointer:
		return kind(t.Elem())
	case reflect.String:
		return "string"
	case reflect.Bool:
		return "boolean"
	case reflect.Slice:
		return "array"
	case reflect.Struct, reflect.Map:
		return "object"
	default:
		return "integer"
	}
}

// TestEverySchemaIsCompared: a schema that nothing leads to would go unnoticed.
func TestEverySchemaIsCompared(t *testing.T) {
	types := map[string]reflect.Type{}
	for _, r := range roots {
		collect(reflect.TypeOf(r), types)
	}
	file, err := parser.ParseFile(token.NewFileSet(), "api.gen.go", nil, 0)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(file, func(n ast.Node) bool {
		spec, ok := n.(*ast.TypeSpec)
		if !ok {
			return true
		}
		s, isStruct := spec.Type.(*ast.StructType)
		if !isStruct || len(s.Fields.List) == 0 || s.Fields.List[0].Tag == nil {
			return true // not a schema
		}
		if types[spec.Name.Name] == nil {
			t.Errorf("schema %s is not compared", spec.Name.Name)
		}
		return true
	})
}

// TestUnsetMembersAreOmitted: some versions refuse null.
func TestUnsetMembersAreOmitted(t *testing.T) {
	for _, v := range []any{VmConfig{}, DiskConfig{}, NetConfig{}, VmResize{}, VmResizeDisk{}, VmRemoveDevice{}} {
		b, err := json.Marshal(v)
		if err != nil || strings.Contains(string(b), "null") {
			t.Errorf("%T is sent as %s, %v", v, b, err)
		}
	}
}
