// Prints, as JSON, what the Go package of the CRI says: every message with its fields, every method, and one encoded
// message of each type with every field set. The test cri_api compares it with ours.
package main

import (
	"encoding/hex"
	"encoding/json"
	"fmt"
	"os"

	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"
	"google.golang.org/protobuf/reflect/protoregistry"
	cri "k8s.io/cri-api/pkg/apis/runtime/v1"
)

type field struct {
	Name   string `json:"name"`
	Number int32  `json:"number"`
	Kind   string `json:"kind"`
	Label  string `json:"label"`
	Type   string `json:"type"`
	Oneof  string `json:"oneof"`
}

type method struct {
	Name            string `json:"name"`
	Input           string `json:"input"`
	Output          string `json:"output"`
	ClientStreaming bool   `json:"client_streaming"`
	ServerStreaming bool   `json:"server_streaming"`
}

type answer struct {
	Messages map[string][]field          `json:"messages"`
	Enums    map[string]map[string]int32 `json:"enums"`
	Methods  []method                    `json:"methods"`
	Samples  map[string]string           `json:"samples"`
}

// A message that holds itself would be filled for ever.
const depthMax = 16

func main() {
	out := answer{map[string][]field{}, map[string]map[string]int32{}, nil, map[string]string{}}
	file := cri.File_staging_src_k8s_io_cri_api_pkg_apis_runtime_v1_api_proto
	messages(file.Messages(), &out)
	enums(file.Enums(), &out)
	for i := range file.Services().Len() {
		service := file.Services().Get(i)
		for j := range service.Methods().Len() {
			m := service.Methods().Get(j)
			name := fmt.Sprintf("/%s/%s", service.FullName(), m.Name())
			out.Methods = append(out.Methods, method{
				name, string(m.Input().FullName()), string(m.Output().FullName()), m.IsStreamingClient(), m.IsStreamingServer(),
			})
		}
	}
	if err := json.NewEncoder(os.Stdout).Encode(out); err != nil {
		panic(err)
	}
}

func enums(all protoreflect.EnumDescriptors, out *answer) {
	for i := range all.Len() {
		values := map[string]int32{}
		for j := range all.Get(i).Values().Len() {
			value := all.Get(i).Values().Get(j)
			values[string(value.Name())] = int32(value.Number())
		}
		out.Enums[string(all.Get(i).FullName())] = values
	}
}

func messages(all protoreflect.MessageDescriptors, out *answer) {
	for i := range all.Len() {
		message := all.Get(i)
		enums(message.Enums(), out)
		if message.IsMapEntry() {
			continue
		}
		messages(message.Messages(), out)
		fields := []field{}
		for j := range message.Fields().Len() {
			fields = append(fields, describe(message.Fields().Get(j)))
		}
		name := string(message.FullName())
		out.Messages[name] = fields
		kind, err := protoregistry.GlobalTypes.FindMessageByName(message.FullName())
		if err != nil {
			panic(err)
		}
		sample := kind.New()
		fill(sample, 0)
		bytes, err := proto.MarshalOptions{Deterministic: true}.Marshal(sample.Interface())
		if err != nil {
			panic(err)
		}
		out.Samples[name] = hex.EncodeToString(bytes)
	}
}

func describe(f protoreflect.FieldDescriptor) field {
	d := field{Name: string(f.Name()), Number: int32(f.Number()), Kind: f.Kind().String(), Label: f.Cardinality().String()}
	switch {
	case f.IsMap():
		d.Kind = "map"
		d.Type = typeOf(f.MapKey()) + "," + typeOf(f.MapValue())
	case f.IsList() && f.IsPacked():
		d.Label = "packed"
		d.Type = typeOf(f)
	default:
		d.Type = typeOf(f)
	}
	if f.ContainingOneof() != nil {
		d.Oneof = string(f.ContainingOneof().Name())
	}
	return d
}

func typeOf(f protoreflect.FieldDescriptor) string {
	switch f.Kind() {
	case protoreflect.MessageKind:
		return string(f.Message().FullName())
	case protoreflect.EnumKind:
		return string(f.Enum().FullName())
	default:
		return f.Kind().String()
	}
}

func fill(m protoreflect.Message, depth int) {
	if depth > depthMax {
		return
	}
	for i := range m.Descriptor().Fields().Len() {
		f := m.Descriptor().Fields().Get(i)
		switch {
		case f.IsMap():
			entries := m.Mutable(f).Map()
			entries.Set(value(f.MapKey(), func() protoreflect.Value { panic("no key is a message") }, depth).MapKey(),
				value(f.MapValue(), entries.NewValue, depth))
		case f.IsList():
			list := m.Mutable(f).List()
			for range 2 {
				list.Append(value(f, list.NewElement, depth))
			}
		default:
			m.Set(f, value(f, func() protoreflect.Value { return m.NewField(f) }, depth))
		}
	}
}

// A value that is no default, takes the most bytes of its kind, and differs from field to field.
func value(f protoreflect.FieldDescriptor, fresh func() protoreflect.Value, depth int) protoreflect.Value {
	number := int64(f.Number())
	switch f.Kind() {
	case protoreflect.BoolKind:
		return protoreflect.ValueOfBool(true)
	case protoreflect.StringKind:
		return protoreflect.ValueOfString(fmt.Sprintf("%s-%d-é", f.Name(), number))
	case protoreflect.BytesKind:
		return protoreflect.ValueOfBytes([]byte{0, 0xff, byte(number)})
	case protoreflect.Int32Kind, protoreflect.Sint32Kind, protoreflect.Sfixed32Kind:
		return protoreflect.ValueOfInt32(int32(-1 - number))
	case protoreflect.Int64Kind, protoreflect.Sint64Kind, protoreflect.Sfixed64Kind:
		return protoreflect.ValueOfInt64(-1 - number)
	case protoreflect.Uint32Kind, protoreflect.Fixed32Kind:
		return protoreflect.ValueOfUint32(^uint32(number))
	case protoreflect.Uint64Kind, protoreflect.Fixed64Kind:
		return protoreflect.ValueOfUint64(^uint64(number))
	case protoreflect.FloatKind:
		return protoreflect.ValueOfFloat32(float32(number) + 0.5)
	case protoreflect.DoubleKind:
		return protoreflect.ValueOfFloat64(float64(number) + 0.5)
	case protoreflect.EnumKind:
		values := f.Enum().Values()
		return protoreflect.ValueOfEnum(values.Get(values.Len() - 1).Number())
	default:
		message := fresh()
		fill(message.Message(), depth+1)
		return message
	}
}
