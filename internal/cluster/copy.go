package cluster

import (
	"encoding"
	"reflect"
)

var textMarshaler = reflect.TypeFor[encoding.TextMarshaler]()

// deepCopy copies everything that v refers to. Values that marshal themselves to text (times, addresses, prefixes) are
// immutable and are copied as they are.
func deepCopy[T any](v T) T {
	out := reflect.New(reflect.TypeOf(v)).Elem()
	copyInto(out, reflect.ValueOf(v))
	return out.Interface().(T)
}

func copyInto(dst, src reflect.Value) {
	if src.Type().Implements(textMarshaler) {
		dst.Set(src)
		return
	}
	switch src.Kind() {
	case reflect.Pointer:
		if src.IsNil() {
			return
		}
		dst.Set(reflect.New(src.Type().Elem()))
		copyInto(dst.Elem(), src.Elem())
	case reflect.Struct:
		dst.Set(src)
		for i := range src.NumField() {
			if src.Type().Field(i).IsExported() {
				copyInto(dst.Field(i), src.Field(i))
			}
		}
	case reflect.Slice:
		if src.IsNil() {
			return
		}
		dst.Set(reflect.MakeSlice(src.Type(), src.Len(), src.Len()))
		if src.Type().Elem().Kind() == reflect.Uint8 { // a config has a million of them
			reflect.Copy(dst, src)
			return
		}
		for i := range src.Len() {
			copyInto(dst.Index(i), src.Index(i))
		}
	case reflect.Map:
		if src.IsNil() {
			return
		}
		dst.Set(reflect.MakeMapWithSize(src.Type(), src.Len()))
		for k, v := range src.Seq2() {
			c := reflect.New(v.Type()).Elem()
			copyInto(c, v)
			dst.SetMapIndex(k, c)
		}
	default:
		dst.Set(src)
	}
}
