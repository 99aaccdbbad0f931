import HSSLGraph
import HSSLModels

/// Depthwise convolutions and pooling.
extension Emission {
    mutating func depthwiseConv(_ node: Node, kernel: Int) throws {
        let channels = node.shape[3]
        let operands = [
            try channelsFirst(node.inputs[0]),
            try graph.weights(
                try constant(node, 1, "the weight of a convolution"), shape: [channels, 1, kernel, kernel],
                parameterName(node, 1)),
            try graph.weights(
                try constant(node, 2, "the bias of a convolution"), shape: [channels], parameterName(node, 2)),
        ]
        set(node, channelsFirst: graph.add("Conv", operands, label(node), [
            .ints("kernel_shape", [kernel, kernel]), .int("group", channels),
            .ints("pads", Array(repeating: kernel / 2, count: 4)),
        ]))
    }

    mutating func pool(_ node: Node, _ kind: Operation.Pool, kernel: Int, stride: Int, padding: Int) throws {
        // Positions beyond the edge do not count: so it is for the largest, and by default for the mean.
        set(node, channelsFirst: graph.add(
            kind == .max ? "MaxPool" : "AveragePool", [try channelsFirst(node.inputs[0])], label(node),
            [
                .ints("kernel_shape", [kernel, kernel]), .ints("strides", [stride, stride]),
                .ints("pads", Array(repeating: padding, count: 4)),
            ]))
    }
}
