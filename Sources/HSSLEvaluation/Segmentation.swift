import HSSLData
import HSSLFormats

/// Images and the masks that say which class each of their pixels is: two folders with the same names but for suffixes.
/// A mask's colours are the classes; grey values are colours too.
public struct MaskedImages: Sendable {
    /// The images, in the order of their masks; without labels.
    public let images: Dataset
    private let masks: [String]

    /// - Throws: `DataError` for folders that cannot be read, ``EvaluationError`` for an image without a mask.
    public init(images: String, masks: String) throws {
        self.images = try Dataset(path: images, folderLabels: FolderLabels.none)
        let found = try Dataset(path: masks, folderLabels: FolderLabels.none)
        var byStem: [[UInt8]: String] = [:]
        for index in 0..<found.count {
            let name = found.name(index)
            guard byStem.updateValue(name, forKey: Self.stem(name, below: masks)) == nil else {
                throw EvaluationError(
                    "\(oneLine(name, limit: 4096)): another mask has the same name but for its suffix")
            }
        }
        var matched: [String] = []
        for index in 0..<self.images.count {
            let name = self.images.name(index)
            guard let mask = byStem[Self.stem(name, below: images)] else {
                throw EvaluationError("\(oneLine(name, limit: 4096)): has no mask in \(masks)")
            }
            matched.append(mask)
        }
        self.masks = matched
    }

    /// The name below `folder` without its suffix.
    private static func stem(_ name: String, below folder: String) -> [UInt8] {
        let bytes = Array(name.utf8.dropFirst(folder.utf8.count).drop { $0 == UInt8(ascii: "/") })
        let last = bytes.lastIndex(of: UInt8(ascii: "/")).map { $0 + 1 } ?? 0
        return Array(bytes[..<(bytes[last...].lastIndex(of: UInt8(ascii: ".")) ?? bytes.count)])
    }

    /// The colours 0xRRGGBB of an image's mask in the crop that its features see: [crop, crop], row-major.
    ///
    /// - Parameter index: of the image in ``images``.
    /// - Throws: `DataError` for a mask that cannot be read, ``EvaluationError`` for one of another size than its
    ///   image.
    public func mask(_ index: Int, _ preprocessing: Preprocessing) throws -> [Int] {
        let path = masks[index]
        let mask = try ImageDecoder.decode(path: path)
        let size = try ImageDecoder.size(path: images.name(index))
        guard (mask.width, mask.height) == size else {
            throw EvaluationError(
                "\(oneLine(path, limit: 4096)): \(mask.width) x \(mask.height) pixels, "
                + "its image \(size.width) x \(size.height)"
            )
        }
        let pixels = preprocessing.nearest(mask)
        return stride(from: 0, to: pixels.count, by: 3).map {
            Int(pixels[$0]) << 16 | Int(pixels[$0 + 1]) << 8 | Int(pixels[$0 + 2])
        }
    }
}

/// What `hssl evaluate segmentation` reports. Figures are fractions.
public struct SegmentationResult: Equatable, Sendable {
    /// Training images.
    public let trainCount: Int
    /// Test images.
    public let testCount: Int
    /// Numbers of a patch's features.
    public let dimension: Int
    /// λ of the head's penalty.
    public let strength: Double
    /// Colour 0xRRGGBB of each class, and intersection over union; nil where no test pixel has it or is taken for it.
    public let classes: [(color: Int, iou: Double?)]
    /// Share of the test pixels whose class is right.
    public let pixelAccuracy: Double

    /// Mean intersection over union of the classes that have one, 0 … 1; 0 without any.
    public var meanIoU: Double {
        let known = classes.compactMap(\.iou)
        return known.isEmpty ? 0 : known.reduce(0, +) / Double(known.count)
    }

    public static func == (a: SegmentationResult, b: SegmentationResult) -> Bool { a.json == b.json }

    /// `#rrggbb` of a colour 0xRRGGBB.
    public static func name(of color: Int) -> String {
        let digits = String(color, radix: 16)
        return "#" + String(repeating: "0", count: 6 - digits.count) + digits
    }

    /// One JSON object, without a line break.
    public var json: String {
        let rows = classes.map {
            "{\"color\":\"\(Self.name(of: $0.color))\",\"iou\":\($0.iou.map { "\($0)" } ?? "null")}"
        }
        return
            "{\"train_images\":\(trainCount),\"test_images\":\(testCount),\"dimension\":\(dimension),"
            + "\"l2\":\(strength),\"miou\":\(meanIoU),\"pixel_accuracy\":\(pixelAccuracy),"
            + "\"classes\":[\(rows.joined(separator: ","))]}"
    }
}

/// A linear head on frozen patch features: each patch learns the class that most of its pixels have; its logits are
/// spread bilinearly over the pixels of the crop, as DINOv2's linear segmentation does.
///
/// The strength of the penalty is chosen as ``LinearProbe`` does, patches of an image held out together. Pixels are
/// those of the model's input: masks are resized by the nearest pixel and cropped as the images are.
public struct Segmentation {
    private let grid: Int
    private let side: Int
    private let dimension: Int
    private let ignored: Set<Int>
    private var features: [Float] = []
    private var labels: [Int] = []
    private var folds: [Int] = []
    private var trainCount = 0

    /// - Parameters:
    ///   - grid: patches along a side.
    ///   - side: pixels of the crop along a side.
    ///   - dimension: of a patch's features.
    ///   - ignored: colours that are no class: not learnt and not judged.
    public init(grid: Int, side: Int, dimension: Int, ignored: Set<Int>) {
        (self.grid, self.side, self.dimension, self.ignored) = (grid, side, dimension, ignored)
    }

    /// Takes a training image: patches [grid·grid, dimension] and the colours of its mask [side, side].
    public mutating func train(_ patches: ArraySlice<Float>, mask: [Int]) {
        for (patch, color) in majorities(mask).enumerated() {
            guard let color else { continue }
            let first = patches.startIndex + patch * dimension
            features += patches[first..<(first + dimension)]
            labels.append(color)
            folds.append(trainCount % LinearProbe.foldCount)
        }
        trainCount += 1
    }

    /// The colour that most pixels of each patch have, of equal ones the lower; nil where all are ignored.
    func majorities(_ mask: [Int]) -> [Int?] {
        (0..<(grid * grid)).map { patch in
            var counts: [Int: Int] = [:]
            let (row, column) = (patch / grid, patch % grid)
            for y in (row * side / grid)..<((row + 1) * side / grid) {
                for x in (column * side / grid)..<((column + 1) * side / grid) {
                    let color = mask[y * side + x]
                    if !ignored.contains(color) { counts[color, default: 0] += 1 }
                }
            }
            return counts.max { $0.value != $1.value ? $0.value < $1.value : $0.key > $1.key }?.key
        }
    }

    /// Fits the head. The training patches are gone afterwards.
    ///
    /// - Throws: ``EvaluationError`` for fewer than two classes or values that are not finite.
    public mutating func head(
        strengths: [Double] = LinearProbe.defaultStrengths, progress: (Int) -> Void = { _ in }
    ) throws(EvaluationError) -> SegmentationHead {
        var taken: [Float] = []
        swap(&taken, &features)
        let probe = try LinearProbe(features: taken, dimension: dimension, labels: labels)
        taken = []
        let (solution, strength, _) = probe.classifier(folds: folds, strengths: strengths, progress: progress)
        return SegmentationHead(
            grid: grid, side: side, ignored: ignored, probe: probe, colors: Set(labels).sorted(), solution: solution,
            strength: strength, trainCount: trainCount)
    }
}

/// A fitted head and what it did on the test images so far.
public struct SegmentationHead {
    private let grid: Int
    private let side: Int
    private let ignored: Set<Int>
    private let probe: LinearProbe
    private let colors: [Int]
    private let classOf: [Int: Int]
    private let layer: LinearLayer
    private let strength: Double
    private let trainCount: Int
    private var testCount = 0
    /// [truth, answer]: pixels.
    private var confusion: [Int]

    fileprivate init(
        grid: Int, side: Int, ignored: Set<Int>, probe: LinearProbe, colors: [Int],
        solution: LogisticRegression.Solution, strength: Double, trainCount: Int
    ) {
        (self.grid, self.side, self.ignored, self.probe, self.colors) = (grid, side, ignored, probe, colors)
        (self.strength, self.trainCount) = (strength, trainCount)
        classOf = Dictionary(uniqueKeysWithValues: zip(colors, 0...))
        layer = LinearLayer(weights: solution.weights, biases: solution.biases, dimension: probe.dimension)
        confusion = [Int](repeating: 0, count: colors.count * colors.count)
    }

    /// Judges a test image: patches [grid·grid, dimension] and the colours of its mask [side, side].
    ///
    /// - Parameter name: what an error calls the image.
    /// - Throws: ``EvaluationError`` for a colour that no training patch has.
    public mutating func judge(_ patches: ArraySlice<Float>, mask: [Int], name: String) throws(EvaluationError) {
        // All of the mask first: an image that is refused counts for nothing.
        for color in Set(mask).subtracting(ignored).sorted() where classOf[color] == nil {
            throw EvaluationError(
                "\(oneLine(name, limit: 4096)): its mask has \(SegmentationResult.name(of: color)), which no train "
                + "patch has; --ignore leaves a colour out"
            )
        }
        let answers = classes(patches)
        for (pixel, color) in mask.enumerated() where !ignored.contains(color) {
            if let truth = classOf[color] { confusion[truth * colors.count + answers[pixel]] += 1 }
        }
        testCount += 1
    }

    /// The class of every pixel [side, side]: logits interpolated between the centres of patches.
    func classes(_ patches: ArraySlice<Float>) -> [Int] {
        var rows = Array(patches)
        probe.standardize(&rows)
        let count = colors.count
        var logits = [Float](repeating: 0, count: grid * grid * count)
        layer.apply(to: rows, rows: grid * grid, into: &logits)
        let places = (0..<side).map { pixel -> (low: Int, high: Int, share: Float) in
            let place = max(0, (Float(pixel) + 0.5) * Float(grid) / Float(side) - 0.5)
            let low = min(Int(place), grid - 1)
            return (low, min(low + 1, grid - 1), place - Float(low))
        }
        var result = [Int](repeating: 0, count: side * side)
        logits.withUnsafeBufferPointer { logits in
            for (y, vertical) in places.enumerated() {
                for (x, horizontal) in places.enumerated() {
                    let corners = (
                        (vertical.low * grid + horizontal.low) * count, (vertical.low * grid + horizontal.high) * count,
                        (vertical.high * grid + horizontal.low) * count,
                        (vertical.high * grid + horizontal.high) * count)
                    var (best, highest) = (0, -Float.infinity)
                    for c in 0..<count {
                        let above = logits[corners.0 + c] * (1 - horizontal.share)
                            + logits[corners.1 + c] * horizontal.share
                        let below = logits[corners.2 + c] * (1 - horizontal.share)
                            + logits[corners.3 + c] * horizontal.share
                        let value = above * (1 - vertical.share) + below * vertical.share
                        if value > highest { (best, highest) = (c, value) }
                    }
                    result[y * side + x] = best
                }
            }
        }
        return result
    }

    /// Figures over the test images judged so far.
    public var result: SegmentationResult {
        let count = colors.count
        let classes = (0..<count).map { c -> (color: Int, iou: Double?) in
            let right = confusion[c * count + c]
            let truth = confusion[(c * count)..<((c + 1) * count)].reduce(0, +)
            let answers = (0..<count).reduce(0) { $0 + confusion[$1 * count + c] }
            let union = truth + answers - right
            return (colors[c], union > 0 ? Double(right) / Double(union) : nil)
        }
        let total = confusion.reduce(0, +)
        let right = (0..<count).reduce(0) { $0 + confusion[$1 * count + $1] }
        return SegmentationResult(
            trainCount: trainCount, testCount: testCount, dimension: probe.dimension, strength: strength,
            classes: classes, pixelAccuracy: total > 0 ? Double(right) / Double(total) : 0)
    }
}
