package latency

import (
	"encoding/json"
	"go/ast"
	"go/parser"
	"go/token"
	"maps"
	"reflect"
	"slices"
	"strings"
	"testing"
)

// schema is the JSON schema of all documents, made of the types and of their comments.
type schema struct {
	text  []byte
	defs  map[string]map[string]any
	roots map[string]reflect.Type // by golden document
	said  map[string]string       // comments, by type and by type.field
}

func makeSchema(t *testing.T) *schema {
	t.Helper()
	s := &schema{defs: map[string]map[string]any{}, said: map[string]string{}, roots: map[string]reflect.Type{
		"show.json": reflect.TypeFor[Report](), "hist.json": reflect.TypeFor[Report](), "profile.json": reflect.TypeFor[Profile](), "outliers.json": reflect.TypeFor[Outliers](),
		"inflight.json": reflect.TypeFor[Inflight](), "probes.json": reflect.TypeFor[Attached](), "plot.json": reflect.TypeFor[Plot]()}}
	for _, file := range []string{"document.go", "report.go", "snapshot.go", "../../../mirror/wire/tcp.go"} {
		s.read(t, file)
	}
	var docs []map[string]string
	for _, name := range []string{"show.json", "profile.json", "outliers.json", "inflight.json", "probes.json", "plot.json"} {
		docs = append(docs, map[string]string{"$ref": "#/$defs/" + s.define(t, s.roots[name])})
	}
	doc := map[string]any{"$schema": "https://json-schema.org/draft/2020-12/schema", "title": "What robib-ublk latency prints with -j or -p", "anyOf": docs, "$defs": s.defs}
	text, err := json.MarshalIndent(doc, "", "  ")
	if err != nil {
		t.Fatal(err)
	}
	s.text = append(text, '\n')
	return s
}

// read collects the comments of a file's structs.
func (s *schema) read(t *testing.T, file string) {
	t.Helper()
	f, err := parser.ParseFile(token.NewFileSet(), file, nil, parser.ParseComments)
	if err != nil {
		t.Fatal(err)
	}
	ast.Inspect(f, func(n ast.Node) bool {
		d, ok := n.(*ast.GenDecl)
		if !ok || len(d.Specs) != 1 {
			return true
		}
		ts, ok := d.Specs[0].(*ast.TypeSpec)
		if !ok {
			return true
		}
		s.said[ts.Name.Name] = oneLine(d.Doc)
		if st, ok := ts.Type.(*ast.StructType); ok {
			for _, field := range st.Fields.List {
				for _, name := range field.Names {
					s.said[ts.Name.Name+"."+name.Name] = oneLine(field.Comment)
				}
			}
		}
		return true
	})
}

func oneLine(c *ast.CommentGroup) string {
	return strings.ReplaceAll(strings.TrimSpace(c.Text()), "\n", " ")
}

// define adds a struct and those that it has, and gives its name.
func (s *schema) define(t *testing.T, of reflect.Type) string {
	t.Helper()
	name := of.Name()
	if s.defs[name] != nil {
		return name
	}
	if s.said[name] == "" {
		t.Errorf("no description of %s", name)
	}
	properties, required := map[string]any{}, []string{}
	s.defs[name] = map[string]any{"type": "object", "description": s.said[name], "properties": properties}
	for i := range of.NumField() {
		f := of.Field(i)
		key, option, _ := strings.Cut(f.Tag.Get("json"), ",")
		p := s.kind(t, f.Type)
		if c := s.said[name+"."+f.Name]; c != "" {
			p["description"] = c
		}
		if properties[key] = p; option != "omitempty" {
			required = append(required, key)
		}
	}
	s.defs[name]["required"] = required
	return name
}

func (s *schema) kind(t *testing.T, of reflect.Type) map[string]any {
	t.Helper()
	switch of.Kind() {
	case reflect.Pointer:
		return s.kind(t, of.Elem())
	case reflect.Struct:
		return map[string]any{"$ref": "#/$defs/" + s.define(t, of)}
	case reflect.Slice:
		return map[string]any{"type": "array", "items": s.kind(t, of.Elem())}
	case reflect.String:
		return map[string]any{"type": "string"}
	case reflect.Bool:
		return map[string]any{"type": "boolean"}
	case reflect.Float64:
		return map[string]any{"type": "number"}
	case reflect.Int, reflect.Int64:
		return map[string]any{"type": "integer"}
	case reflect.Uint32, reflect.Uint64:
		return map[string]any{"type": "integer", "minimum": 0}
	}
	t.Fatalf("%v is in no document yet", of)
	return nil
}

// check holds a golden document against the schema.
func (s *schema) check(t *testing.T, name string, raw []byte) {
	t.Helper()
	var doc any
	if err := json.Unmarshal(raw, &doc); err != nil {
		t.Fatal(err)
	}
	s.match(t, name, doc, map[string]any{"$ref": "#/$defs/" + s.roots[name].Name()})
}

func (s *schema) match(t *testing.T, at string, v any, want map[string]any) {
	t.Helper()
	if ref, ok := want["$ref"].(string); ok {
		want = s.defs[strings.TrimPrefix(ref, "#/$defs/")]
	}
	kind := ""
	switch x := v.(type) {
	case map[string]any:
		kind = "object"
		properties, _ := want["properties"].(map[string]any)
		for _, key := range slices.Sorted(maps.Keys(x)) {
			p, ok := properties[key].(map[string]any)
			if !ok {
				t.Errorf("%s has %s, the schema does not", at, key)
				continue
			}
			s.match(t, at+"."+key, x[key], p)
		}
		required, _ := want["required"].([]string)
		for _, key := range required {
			if _, ok := x[key]; !ok {
				t.Errorf("%s has no %s", at, key)
			}
		}
	case []any:
		kind = "array"
		items, _ := want["items"].(map[string]any)
		for _, e := range x {
			s.match(t, at+"[]", e, items)
		}
	case string:
		kind = "string"
	case bool:
		kind = "boolean"
	case float64:
		if kind = "number"; want["type"] == "integer" && x == float64(int64(x)) {
			kind = "integer"
		}
	}
	if kind != want["type"] {
		t.Errorf("%s is %s, want %v", at, kind, want["type"])
	}
}
