package main

import (
	"bufio"
	"cmp"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"reflect"
	"slices"
	"strconv"
	"strings"

	discoveryv2 "k8s.io/api/apidiscovery/v2"
	discoveryv2beta1 "k8s.io/api/apidiscovery/v2beta1"
	extensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
	extensionsv1beta1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1beta1"
	"k8s.io/apimachinery/pkg/api/resource"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	metav1beta1 "k8s.io/apimachinery/pkg/apis/meta/v1beta1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/util/intstr"
	clientscheme "k8s.io/client-go/kubernetes/scheme"
	aggregationv1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1"
	aggregationv1beta1 "k8s.io/kube-aggregator/pkg/apis/apiregistration/v1beta1"
	metricsv1alpha1 "k8s.io/metrics/pkg/apis/metrics/v1alpha1"
	metricsv1beta1 "k8s.io/metrics/pkg/apis/metrics/v1beta1"
)

// All built-in types, and those that are served in protobuf by servers that come with nearly every cluster.
func builtIn() (*runtime.Scheme, error) {
	scheme := runtime.NewScheme()
	for _, add := range []func(*runtime.Scheme) error{
		clientscheme.AddToScheme,
		metav1.AddMetaToScheme,
		metav1beta1.AddMetaToScheme,
		extensionsv1.AddToScheme,
		extensionsv1beta1.AddToScheme,
		aggregationv1.AddToScheme,
		aggregationv1beta1.AddToScheme,
		discoveryv2.AddToScheme,
		discoveryv2beta1.AddToScheme,
		metricsv1alpha1.AddToScheme,
		metricsv1beta1.AddToScheme,
	} {
		if err := add(scheme); err != nil {
			return nil, err
		}
	}
	return scheme, nil
}

// What is another thing in JSON than its fields say, and is told by a word of its own.
var special = map[reflect.Type]string{
	reflect.TypeFor[resource.Quantity]():      "quantity",
	reflect.TypeFor[metav1.Time]():            "time",
	reflect.TypeFor[metav1.MicroTime]():       "microtime",
	reflect.TypeFor[metav1.Duration]():        "duration",
	reflect.TypeFor[intstr.IntOrString]():     "intorstring",
	reflect.TypeFor[runtime.RawExtension]():   "raw",
	reflect.TypeFor[metav1.FieldsV1]():        "fieldset",
	reflect.TypeFor[extensionsv1.JSON]():      "json",
	reflect.TypeFor[extensionsv1beta1.JSON](): "json",
}

// What JSON shows one of the fields of, in place of an object with them.
var transparent = map[reflect.Type]bool{
	reflect.TypeFor[extensionsv1.JSONSchemaPropsOrArray]():            true,
	reflect.TypeFor[extensionsv1.JSONSchemaPropsOrBool]():             true,
	reflect.TypeFor[extensionsv1.JSONSchemaPropsOrStringArray]():      true,
	reflect.TypeFor[extensionsv1beta1.JSONSchemaPropsOrArray]():       true,
	reflect.TypeFor[extensionsv1beta1.JSONSchemaPropsOrBool]():        true,
	reflect.TypeFor[extensionsv1beta1.JSONSchemaPropsOrStringArray](): true,
}

type schemaField struct {
	number int
	name   string
	// "[" for repeated, "{" for a map with texts as keys.
	wrap string
	// A word for a scalar or a special type, else empty.
	word    string
	message reflect.Type
}

type schemaTable struct {
	fields map[reflect.Type][]schemaField
	// Messages with equal fields are one.
	same  map[reflect.Type]reflect.Type
	kinds map[string]reflect.Type
}

func printSchema() {
	scheme, err := builtIn()
	if err == nil {
		table := &schemaTable{fields: map[reflect.Type][]schemaField{}, kinds: map[string]reflect.Type{}}
		if err = table.fill(scheme); err == nil {
			table.join()
			err = table.print()
		}
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func (t *schemaTable) fill(scheme *runtime.Scheme) error {
	for gvk, kind := range scheme.AllKnownTypes() {
		version := gvk.GroupVersion().String()
		common := kind.PkgPath() == reflect.TypeFor[metav1.Status]().PkgPath()
		switch {
		case gvk.Version == runtime.APIVersionInternal:
			continue
		// These are known in every group. They are told once, as members of two.
		case common && version != "v1" && version != metav1.SchemeGroupVersion.String() && version != metav1beta1.SchemeGroupVersion.String():
			continue
		// What only stands in queries.
		case strings.HasSuffix(gvk.Kind, "Options") && gvk.Kind != "DeleteOptions":
			continue
		case !hasProtobuf(kind):
			continue
		}
		t.kinds[version+" "+gvk.Kind] = kind
		if err := t.add(kind); err != nil {
			return err
		}
	}
	return nil
}

func hasProtobuf(t reflect.Type) bool {
	_, has := reflect.New(t).Interface().(interface{ Unmarshal([]byte) error })
	return has
}

func (t *schemaTable) add(message reflect.Type) error {
	if _, known := t.fields[message]; known {
		return nil
	}
	t.fields[message] = nil
	// A named list is a message whose one field isn't seen in JSON.
	if message.Kind() == reflect.Slice {
		field := schemaField{number: 1, wrap: "["}
		err := t.value(message.Elem(), &field)
		t.fields[message] = []schemaField{field}
		return err
	}
	if message.Kind() != reflect.Struct {
		return fmt.Errorf("%v is no message", message)
	}
	if _, own := reflect.New(message).Interface().(json.Marshaler); own && !transparent[message] {
		return fmt.Errorf("%v has a form of its own in JSON, which isn't known here", message)
	}
	var fields []schemaField
	for i := range message.NumField() {
		member := message.Field(i)
		tag, has := member.Tag.Lookup("protobuf")
		if !has || tag == "-" {
			if member.Type != reflect.TypeFor[metav1.TypeMeta]() && member.IsExported() && member.Tag.Get("json") != "-" {
				return fmt.Errorf("%v.%s isn't in protobuf", message, member.Name)
			}
			continue
		}
		number, err := strconv.Atoi(strings.Split(tag, ",")[1])
		if err != nil {
			return fmt.Errorf("%v.%s: %w", message, member.Name, err)
		}
		name, options, _ := strings.Cut(member.Tag.Get("json"), ",")
		if name == "" && !strings.Contains(options, "inline") && !transparent[message] {
			return fmt.Errorf("%v.%s has no name in JSON", message, member.Name)
		}
		field := schemaField{number: number, name: name}
		if err := t.field(member.Type, &field); err != nil {
			return fmt.Errorf("%v.%s: %w", message, member.Name, err)
		}
		fields = append(fields, field)
	}
	slices.SortFunc(fields, func(a, b schemaField) int { return cmp.Compare(a.number, b.number) })
	t.fields[message] = fields
	return nil
}

func (t *schemaTable) field(of reflect.Type, field *schemaField) error {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	switch {
	case of.Kind() == reflect.Map && of.Key().Kind() == reflect.String && !isSpecial(of):
		field.wrap = "{"
		of = of.Elem()
	case of.Kind() == reflect.Slice && of.Elem().Kind() != reflect.Uint8 && !hasProtobuf(of):
		field.wrap = "["
		of = of.Elem()
	}
	return t.value(of, field)
}

func isSpecial(of reflect.Type) bool { _, is := special[of]; return is }

func (t *schemaTable) value(of reflect.Type, field *schemaField) error {
	if of.Kind() == reflect.Pointer {
		of = of.Elem()
	}
	if word, is := special[of]; is {
		field.word = word
		return nil
	}
	switch of.Kind() {
	case reflect.String:
		field.word = "text"
	case reflect.Bool:
		field.word = "bool"
	case reflect.Int, reflect.Int32, reflect.Int64:
		field.word = "int"
	case reflect.Float64:
		field.word = "double"
	case reflect.Slice:
		if of.Elem().Kind() == reflect.Uint8 {
			field.word = "bytes"
			return nil
		}
		if !hasProtobuf(of) {
			return fmt.Errorf("%v is a list in a list", of)
		}
		field.message = of
		return t.add(of)
	case reflect.Struct:
		field.message = of
		return t.add(of)
	default:
		return fmt.Errorf("%v isn't known here", of)
	}
	return nil
}

// Finds the messages with equal fields: they are split by what their fields say until nothing splits any more.
func (t *schemaTable) join() {
	order := slices.SortedFunc(maps.Keys(t.fields), func(a, b reflect.Type) int {
		// A name of a version that stays comes before others.
		unstable := func(of reflect.Type) int {
			if name := messageName(of); strings.Contains(name, "alpha") || strings.Contains(name, "beta") {
				return 1
			}
			return 0
		}
		return cmp.Or(cmp.Compare(unstable(a), unstable(b)), cmp.Compare(messageName(a), messageName(b)))
	})
	class := map[reflect.Type]reflect.Type{}
	for _, message := range order {
		class[message] = order[0]
	}
	for classes := 0; ; {
		first := map[string]reflect.Type{}
		next := map[reflect.Type]reflect.Type{}
		for _, message := range order {
			key := messageName(class[message]) + "\n" + t.text(message, class)
			if _, known := first[key]; !known {
				first[key] = message
			}
			next[message] = first[key]
		}
		class = next
		if len(first) == classes {
			break
		}
		classes = len(first)
	}
	t.same = class
}

func (t *schemaTable) text(message reflect.Type, class map[reflect.Type]reflect.Type) string {
	var text strings.Builder
	for _, field := range t.fields[message] {
		of := field.word
		if of == "" {
			of = messageName(class[field.message])
		}
		fmt.Fprintf(&text, " %d %s %s%s\n", field.number, cmp.Or(field.name, "-"), field.wrap, of)
	}
	return text.String()
}

// `core/v1.Pod`: the end of the package's path with the type's name.
func messageName(of reflect.Type) string {
	parts := strings.Split(of.PkgPath(), "/")
	return strings.Join(parts[max(0, len(parts)-2):], "/") + "." + of.Name()
}

func (t *schemaTable) print() error {
	out := bufio.NewWriter(os.Stdout)
	fmt.Fprintln(out, "# The built-in types of the Kubernetes API and their fields in protobuf, as `cargo xtask cluster schema` prints them from the")
	fmt.Fprintln(out, "# API's own Go types: do not edit. A line without a space before it begins a message; its fields follow: number, name in JSON")
	fmt.Fprintln(out, "# (`-` where JSON shows in the message's place what the field holds), `[` for a list or `{` for a map by texts, and what it")
	fmt.Fprintln(out, "# holds. Messages with equal fields stand here once. At the end are the kinds: version, kind, message.")
	of := map[string]reflect.Type{}
	for message, same := range t.same {
		if message == same {
			name := messageName(message)
			if _, twice := of[name]; twice {
				return fmt.Errorf("two messages are called %s", name)
			}
			of[name] = message
		}
	}
	for _, name := range slices.Sorted(maps.Keys(of)) {
		fmt.Fprintf(out, "%s\n%s", name, t.text(of[name], t.same))
	}
	for _, kind := range slices.Sorted(maps.Keys(t.kinds)) {
		fmt.Fprintf(out, "= %s %s\n", kind, messageName(t.same[t.kinds[kind]]))
	}
	return out.Flush()
}
