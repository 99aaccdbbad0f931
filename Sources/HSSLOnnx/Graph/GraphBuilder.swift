import CSupport
import FoundationEssentials
import HSSLModels

typealias ElementType = Onnx_TensorProto.DataType

/// An ONNX graph as it grows: operators in the order in which they run, every name once.
struct GraphBuilder {
    private(set) var graph = Onnx_GraphProto()
    /// What weights, and values between operators, are made of: float or float16.
    let element: ElementType
    private var names: Set<String> = []
    private var lists: [[Int]: String] = [:]
    private var scalars: [Float: String] = [:]

    init(name: String, element: ElementType) {
        graph.name = name
        self.element = element
    }

    // MARK: Names

    /// The name, with a number behind it where it is taken.
    mutating func unique(_ wish: String) -> String {
        var name = wish
        var number = 1
        while !names.insert(name).inserted {
            name = "\(wish)_\(number)"
            number += 1
        }
        return name
    }

    // MARK: Operators

    /// Appends an operator.
    ///
    /// - Parameter label: a place in the model, e.g. `blocks.0.attn`; the operator and its output are named after it.
    /// - Returns: the name of its output.
    mutating func add(
        _ type: String, _ inputs: [String], _ label: String, _ attributes: [Onnx_AttributeProto] = []
    ) -> String {
        add(type, inputs, label, attributes, outputs: 1)[0]
    }

    mutating func add(
        _ type: String, _ inputs: [String], _ label: String, _ attributes: [Onnx_AttributeProto] = [], outputs: Int
    ) -> [String] {
        var node = Onnx_NodeProto()
        (node.opType, node.input, node.attribute) = (type, inputs, attributes)
        let name = unique("\(label).\(type)")
        node.name = name
        node.output = outputs == 1 ? [unique("\(name).y")] : (0..<outputs).map { unique("\(name).y\($0)") }
        graph.node.append(node)
        return node.output
    }

    /// Gives the last operator's only output another name: an output of the graph.
    mutating func add(
        _ type: String, _ inputs: [String], output: String, _ attributes: [Onnx_AttributeProto] = []
    ) {
        var node = Onnx_NodeProto()
        (node.opType, node.input, node.attribute) = (type, inputs, attributes)
        node.name = unique("\(output).\(type)")
        node.output = [unique(output)]
        graph.node.append(node)
    }

    // MARK: Shapes

    /// x in another shape; −1 stands for what follows from the others.
    mutating func reshape(_ x: String, _ shape: [Int], _ label: String) -> String {
        add("Reshape", [x, integers(shape)], label)
    }

    mutating func transpose(_ x: String, _ permutation: [Int], _ label: String) -> String {
        add("Transpose", [x], label, [.ints("perm", permutation)])
    }

    // MARK: Constants

    /// float32 values as weights are stored in this graph.
    ///
    /// - Throws: `ModelError` for a value beyond float16, where that is what weights are made of.
    mutating func weights(_ values: [Float], shape: [Int], _ wish: String) throws -> String {
        guard element == .float16 else { return floats(values, shape: shape, wish) }
        // 65520 is the least magnitude that rounds to infinity in binary16.
        if let index = values.firstIndex(where: { abs($0) >= 65_520 }) {
            throw ModelError("'\(wish)' holds \(values[index]) at element \(index), beyond float16")
        }
        let halves = [UInt16](unsafeUninitializedCapacity: values.count) { halves, count in
            if let target = halves.baseAddress { hssl_convert_f32_f16(values.count, values, target) }
            count = values.count
        }
        return constant(halves, .float16, shape: shape, wish)
    }

    /// float32 values that stay float32: scales of codes.
    mutating func floats(_ values: [Float], shape: [Int], _ wish: String) -> String {
        constant(values, .float, shape: shape, wish)
    }

    /// A number as weights are stored, one constant for all its uses.
    mutating func scalar(_ value: Float) throws -> String {
        if let known = scalars[value] { return known }
        let name = try weights([value], shape: [], "scalar")
        scalars[value] = name
        return name
    }

    /// A list of numbers (a shape, an index), one constant for all its uses.
    mutating func integers(_ values: [Int]) -> String {
        if let known = lists[values] { return known }
        let name = constant(values.map { Int64($0) }, .int64, shape: [values.count], "list")
        lists[values] = name
        return name
    }

    /// - Parameter values: of the layout of `type`.
    mutating func constant<Value>(_ values: [Value], _ type: ElementType, shape: [Int], _ wish: String) -> String {
        var tensor = Onnx_TensorProto()
        tensor.name = unique(wish)
        tensor.dims = shape.map { Int64($0) }
        tensor.dataType = type
        // Of a little-endian machine, as every one that this runs on.
        tensor.rawData = values.withUnsafeBytes { Data($0) }
        graph.initializer.append(tensor)
        return tensor.name
    }

    // MARK: Inputs and outputs

    /// The input [batch, …].
    mutating func input(_ name: String, sample: [Int]) -> String {
        graph.input.append(Self.description(unique(name), sample))
        return name
    }

    /// Declares an output [batch, …] that an operator makes.
    mutating func declareOutput(_ name: String, sample: [Int]) { graph.output.append(Self.description(name, sample)) }

    /// float32 [batch, …].
    private static func description(_ name: String, _ sample: [Int]) -> Onnx_ValueInfoProto {
        var batch = Onnx_TensorShapeProto.Dimension()
        batch.dimParam = "batch"
        var shape = Onnx_TensorShapeProto()
        shape.dim = [batch] + sample.map { size in
            var dimension = Onnx_TensorShapeProto.Dimension()
            dimension.dimValue = Int64(size)
            return dimension
        }
        var info = Onnx_ValueInfoProto()
        info.name = name
        info.type.tensorType.elemType = .float
        info.type.tensorType.shape = shape
        return info
    }
}

extension Onnx_AttributeProto {
    static func int(_ name: String, _ value: Int) -> Self {
        var attribute = Self()
        (attribute.name, attribute.type, attribute.i) = (name, .int, Int64(value))
        return attribute
    }

    static func float(_ name: String, _ value: Float) -> Self {
        var attribute = Self()
        (attribute.name, attribute.type, attribute.f) = (name, .float, value)
        return attribute
    }

    static func ints(_ name: String, _ values: [Int]) -> Self {
        var attribute = Self()
        (attribute.name, attribute.type, attribute.ints) = (name, .ints, values.map { Int64($0) })
        return attribute
    }
}
