import ArgumentParser
import HSSLCommandLine
import HSSLFormats
import HSSLGraph
import HSSLImport
import HSSLPretraining

struct Import: ParsableCommand {
    static let configuration = CommandConfiguration(
        commandName: "import",
        abstract: "Turn a checkpoint of another library into a model file.",
        discussion: """
            Reads safetensors and PyTorch's zip (.pth, .pt, .bin) without running anything of them. Known are the \
            names of timm, transformers (ViT, DINOv2 with and without registers, DINOv3, Swin, ConvNeXt, ResNet), \
            torchvision (resnet50, swin, convnext) and the checkpoints of DINO, iBOT, DINOv2, DINOv3, MAE and MoCo v3. \
            The architecture is recognised from names and shapes, and from config.json beside the file; how images are \
            prepared, from preprocessor_config.json. What was taken, renamed, folded and left out is listed; a tensor \
            of the base that is missing or unexpected is an error.

            Examples:
              hssl import dinov2-small/model.safetensors --output dinov2.safetensors \\
                  --image-size 224
              hssl import checkpoint.pth --output mae.safetensors \\
                  --architecture vit_base --source mae
              hssl import resnet50-11ad3fa6.pth --output r50.safetensors \\
                  --precision int8 --calibration photos/
            """)

    @Argument(help: ArgumentHelp("safetensors file, or one of torch.save.", valueName: "file"))
    var file: String

    @Option(name: .long, help: ArgumentHelp("Model file to write.", valueName: "file"))
    var output: String

    @Option(
        name: .long,
        help: ArgumentHelp("What the network is, where names and shapes leave a doubt (heads).", valueName: "name"))
    var architecture: String?

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Whose code trained it, where several have the same names: timm, dino, ibot, dinov2, mae, mocov3, "
            + "torchvision, transformers.",
            valueName: "name"))
    var source: String?

    @Option(
        name: .long,
        help: ArgumentHelp("Side of the images, pixels; positions are resampled as the source does it.", valueName: "n")
    )
    var imageSize: Int?

    @Option(name: .long, help: ArgumentHelp("float32, float16 or int8.", valueName: "p"))
    var precision: Precision = .float32

    @OptionGroup var int8: Int8CommandOptions

    @Option(
        name: .long,
        help: ArgumentHelp(
            "Licence of the weights, e.g. Apache-2.0: kept with the model and its students.", valueName: "text"))
    var license: String?

    @OptionGroup var background: BackgroundOptions
    @OptionGroup var shared: SharedOptions

    func validate() throws {
        try int8.validate(precision)
        if let imageSize, imageSize < 1 { throw ValidationError("--image-size must be at least 1, not \(imageSize)") }
    }

    func run() throws {
        shared.apply()
        // Measuring takes its time: what cannot be written is refused before.
        _ = try OutputTarget(output, needsSeeking: true)
        try refuseOverwriting(output, of: [file])
        var model = try ForeignModel(path: file, architecture: architecture, source: source, imageSize: imageSize)
        if let license { model.license = license }
        background.apply(to: &model.preprocessing)
        let source = BaseSource(
            path: model.path, architecture: model.architecture, preprocessing: model.preprocessing,
            provenance: model.provenance, values: model.values)
        let base = try source.prepared(precision, int8.options)
        try base.writeModel(to: output)
        for line in model.report { print(oneLine(line, limit: 4096)) }
        base.measurement?.show()
        print("written: \(oneLine(output, limit: 4096)), \(precision.rawValue)")
    }
}
