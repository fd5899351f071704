package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"sort"
	"time"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime"
	utilfeature "k8s.io/apiserver/pkg/util/feature"
	"k8s.io/client-go/informers"
	"k8s.io/client-go/kubernetes"
	"k8s.io/client-go/metadata"
	"k8s.io/client-go/rest"
	"k8s.io/client-go/tools/cache"
	"k8s.io/client-go/tools/clientcmd"
	"k8s.io/client-go/tools/leaderelection"
	"k8s.io/client-go/tools/leaderelection/resourcelock"
	"k8s.io/client-go/util/retry"
)

// Works as a controller does, with the arguments KUBECONFIG NAMESPACE json|protobuf: informers that begin with WatchList, a change by
// read-modify-write, a lease. What it sees it prints, a line of JSON for each, always in the same order.
func client() {
	if err := work(); err != nil {
		fmt.Fprintln(os.Stderr, err)
		os.Exit(1)
	}
}

func work() error {
	if len(os.Args) != 4 {
		return errors.New("usage: client KUBECONFIG NAMESPACE json|protobuf")
	}
	// In a program that is also the servers, their gates are the clients', too.
	if err := utilfeature.DefaultMutableFeatureGate.Set("WatchListClient=true"); err != nil {
		return err
	}
	namespace := os.Args[2]
	config, err := clientcmd.BuildConfigFromFlags("", os.Args[1])
	if err != nil {
		return err
	}
	plain := *config
	if os.Args[3] == "protobuf" {
		config.ContentType = runtime.ContentTypeProtobuf
		config.AcceptContentTypes = runtime.ContentTypeProtobuf + "," + runtime.ContentTypeJSON
	}
	client, err := kubernetes.NewForConfig(config)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
	defer cancel()
	if err := inform(ctx, client, namespace); err != nil {
		return err
	}
	if err := look(ctx, &plain, namespace); err != nil {
		return err
	}
	return lead(ctx, client, namespace)
}

func say(what string, value any) error {
	line, err := json.Marshal(map[string]any{"what": what, "value": value})
	if err != nil {
		return err
	}
	fmt.Println(string(line))
	return nil
}

func inform(ctx context.Context, client kubernetes.Interface, namespace string) error {
	factory := informers.NewSharedInformerFactoryWithOptions(client, 0, informers.WithNamespace(namespace))
	secrets, deployments := factory.Core().V1().Secrets(), factory.Apps().V1().Deployments()
	changed := make(chan *corev1.Secret, 64)
	if _, err := secrets.Informer().AddEventHandler(cache.ResourceEventHandlerFuncs{
		UpdateFunc: func(_, now any) {
			if secret, ok := now.(*corev1.Secret); ok {
				changed <- secret
			}
		},
	}); err != nil {
		return err
	}
	deployments.Informer()
	factory.Start(ctx.Done())
	for kind, synced := range factory.WaitForCacheSync(ctx.Done()) {
		if !synced {
			return fmt.Errorf("the informer of %v did not sync", kind)
		}
	}
	for _, object := range sorted(secrets.Informer().GetStore().List()) {
		if secret, ok := object.(*corev1.Secret); ok {
			if err := say("secret "+secret.Name, secret.Data); err != nil {
				return err
			}
		}
	}
	all, err := deployments.Lister().Deployments(namespace).Get("web")
	if err != nil {
		return err
	}
	if err := say("environment", all.Spec.Template.Spec.Containers[0].Env); err != nil {
		return err
	}

	// A controller's change: what was read, a label more, written whole.
	stamp := fmt.Sprint(time.Now().UnixNano())
	err = retry.RetryOnConflict(retry.DefaultRetry, func() error {
		secret, err := client.CoreV1().Secrets(namespace).Get(ctx, "db", metav1.GetOptions{})
		if err != nil {
			return err
		}
		if secret.Labels == nil {
			secret.Labels = map[string]string{}
		}
		secret.Labels["stamp"] = stamp
		_, err = client.CoreV1().Secrets(namespace).Update(ctx, secret, metav1.UpdateOptions{})
		return err
	})
	if err != nil {
		return err
	}
	for {
		select {
		case secret := <-changed:
			if secret.Labels["stamp"] == stamp {
				return say("changed", secret.Data)
			}
		case <-ctx.Done():
			return errors.New("the informer did not tell of the change")
		}
	}
}

func sorted(objects []any) []any {
	name := func(object any) string {
		accessor, ok := object.(metav1.Object)
		if !ok {
			return ""
		}
		return accessor.GetName()
	}
	sort.Slice(objects, func(i, j int) bool { return name(objects[i]) < name(objects[j]) })
	return objects
}

// Objects' metadata alone, as garbage collection and quotas see them.
func look(ctx context.Context, config *rest.Config, namespace string) error {
	client, err := metadata.NewForConfig(metadata.ConfigFor(config))
	if err != nil {
		return err
	}
	list, err := client.Resource(corev1.SchemeGroupVersion.WithResource("secrets")).Namespace(namespace).List(ctx, metav1.ListOptions{})
	if err != nil {
		return err
	}
	for _, item := range list.Items {
		if err := say("metadata "+item.Name, item.Annotations); err != nil {
			return err
		}
	}
	return nil
}

func lead(ctx context.Context, client kubernetes.Interface, namespace string) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	led := false
	leaderelection.RunOrDie(ctx, leaderelection.LeaderElectionConfig{
		Lock: &resourcelock.LeaseLock{
			LeaseMeta:  metav1.ObjectMeta{Name: "leader", Namespace: namespace},
			Client:     client.CoordinationV1(),
			LockConfig: resourcelock.ResourceLockConfig{Identity: "me"},
		},
		ReleaseOnCancel: true,
		LeaseDuration:   15 * time.Second,
		RenewDeadline:   10 * time.Second,
		RetryPeriod:     time.Second,
		Callbacks: leaderelection.LeaderCallbacks{
			OnStartedLeading: func(context.Context) {
				led = true
				// Long enough for the lease to be renewed.
				time.Sleep(1500 * time.Millisecond)
				cancel()
			},
			OnStoppedLeading: func() {},
		},
	})
	if !led {
		return errors.New("the lease was never had")
	}
	return say("led", true)
}
