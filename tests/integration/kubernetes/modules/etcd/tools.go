//go:build tools

// Package tools names what the suite builds, so that go.mod and go.sum pin it.
package tools

import (
	_ "go.etcd.io/etcd/etcdctl/v3"
	_ "go.etcd.io/etcd/server/v3"
)
