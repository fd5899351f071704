package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"os"

	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	"k8s.io/apimachinery/pkg/runtime/serializer/protobuf"
	"k8s.io/apimachinery/pkg/runtime/serializer/streaming"
)

// Reads an object in protobuf, or with the argument "watch" the events of a watch, as client-go does, and prints it as JSON:
// an event is a line with its type and its object.
func decode() {
	if err := decodeAs(len(os.Args) > 1 && os.Args[1] == "watch"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func decodeAs(watch bool) error {
	scheme, err := builtIn()
	if err != nil {
		return err
	}
	serializer := protobuf.NewSerializer(scheme, scheme)
	out := json.NewEncoder(os.Stdout)
	data, err := io.ReadAll(os.Stdin)
	if err != nil {
		return err
	}
	if !watch {
		object, err := runtime.Decode(serializer, data)
		if err != nil {
			return err
		}
		return out.Encode(object)
	}
	frames := protobuf.LengthDelimitedFramer.NewFrameReader(io.NopCloser(bytes.NewReader(data)))
	events := streaming.NewDecoder(frames, protobuf.NewRawSerializer(scheme, scheme))
	gvk := metav1.Unversioned.WithKind(metav1.WatchEventKind)
	for {
		var event metav1.WatchEvent
		if _, _, err := events.Decode(&gvk, &event); errors.Is(err, io.EOF) {
			return nil
		} else if err != nil {
			return err
		}
		object, err := runtime.Decode(serializer, event.Object.Raw)
		if err != nil {
			return err
		}
		if err := out.Encode(map[string]any{"type": event.Type, "object": object}); err != nil {
			return err
		}
	}
}
