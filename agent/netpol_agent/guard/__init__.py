"""Who a pod is on the wire: frames and addresses that are not its own are dropped, whatever policies say."""
